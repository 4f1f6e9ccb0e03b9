//! The blob store port in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use watchbill_core::ports::{BlobError, BlobKey, Blobs};

/// Blobs that live as long as the test.
#[derive(Default)]
pub struct MemoryBlobs {
    kept: Mutex<BTreeMap<BlobKey, Bytes>>,
    refuse: AtomicUsize,
}

impl MemoryBlobs {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlobKey, Bytes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keys(&self) -> Vec<BlobKey> {
        self.lock().keys().cloned().collect()
    }

    /// Answers the next `n` calls with `Busy`.
    pub fn refuse_next(&self, n: usize) {
        self.refuse.store(n, Ordering::Relaxed);
    }

    /// Replaces the bytes under a key, as someone who tampers with the files would.
    pub fn tamper(&self, key: &BlobKey, bytes: Bytes) {
        self.lock().insert(key.clone(), bytes);
    }

    /// Removes a blob, as the bucket's lifecycle rule would.
    pub fn lose(&self, key: &BlobKey) {
        self.lock().remove(key);
    }

    fn answers(&self) -> Result<(), BlobError> {
        let refused = self
            .refuse
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match refused {
            Ok(_) => Err(BlobError::Busy { after: Duration::from_millis(10) }),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Blobs for MemoryBlobs {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> Result<(), BlobError> {
        self.answers()?;
        self.lock().insert(key.clone(), bytes);
        Ok(())
    }

    async fn get(&self, key: &BlobKey) -> Result<Option<Bytes>, BlobError> {
        self.answers()?;
        Ok(self.lock().get(key).cloned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blobs_suite::BlobsUnderTest;

    struct UnderTest(Arc<MemoryBlobs>);

    impl BlobsUnderTest for UnderTest {
        fn blobs(&self) -> Arc<dyn Blobs> {
            self.0.clone()
        }
    }

    crate::blobs_suite!(async { UnderTest(Arc::default()) });
}
