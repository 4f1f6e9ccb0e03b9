//! A store that fails for the keys a test chooses and works for all others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use watchbill_core::ports::{
    Commit, CommitError, DueKey, Item, Key, Page, Query, Store, StoreError,
};
use watchbill_domain::Timestamp;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The call returns an error.
    Down,
    /// The call panics.
    Panic,
    /// The item can be neither read nor replaced.
    Corrupt,
    /// Reads succeed, and every commit meets a conflict, as if another writer were always
    /// faster.
    Contended,
}

/// A store wrapper that injects faults by key.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Mutex<Vec<(String, Failure)>>,
    /// Prefix of the partitions whose reads are counted.
    counted: String,
    reads: AtomicU64,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::counting(inner, "")
    }

    /// A store that counts reads by key in partitions that begin with `counted`.
    pub fn counting(inner: Arc<dyn Store>, counted: &str) -> Self {
        let (faults, reads) = (Mutex::default(), AtomicU64::new(0));
        Self { inner, faults, counted: counted.to_owned(), reads }
    }

    fn faults(&self) -> MutexGuard<'_, Vec<(String, Failure)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every call on a key whose `partition/sort` begins with `key` fails.
    pub fn fail(&self, key: &str, how: Failure) {
        self.faults().push((key.to_owned(), how));
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.faults().clear();
    }

    /// Whether this item is unreadable.
    pub fn is_corrupt(&self, key: &Key) -> bool {
        let name = key.to_string();
        self.faults().iter().any(|(of, how)| *how == Failure::Corrupt && name.starts_with(of))
    }

    fn is_contended(&self, key: &Key) -> bool {
        let name = key.to_string();
        self.faults().iter().any(|(of, how)| *how == Failure::Contended && name.starts_with(of))
    }

    /// Number of items read by key from the counted partitions so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn count(&self, partition: &str) {
        if partition.starts_with(&self.counted) {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn check(&self, key: &Key) -> Result<(), StoreError> {
        let name = key.to_string();
        let fault = self.faults().iter().find(|(of, _)| name.starts_with(of)).cloned();
        match fault {
            None | Some((_, Failure::Contended)) => Ok(()),
            Some((_, Failure::Down)) => {
                Err(StoreError::Down { reason: format!("{} fails on purpose", key.partition) })
            }
            Some((_, Failure::Panic)) => panic!("{} breaks off on purpose", key.partition),
            Some((_, Failure::Corrupt)) => {
                Err(StoreError::Corrupt { key: key.clone(), reason: "on purpose".into() })
            }
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.count(&key.partition);
        self.check(key)?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        for key in keys {
            self.count(&key.partition);
            self.check(key)?;
        }
        self.inner.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.check(&Key::new(partition, prefix))?;
        self.collect_each(partition, prefix).await?.into_iter().collect()
    }

    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        let items = self.inner.collect(partition, prefix).await?;
        let read = |item: Item| self.check(&item.key).map(|()| item);
        Ok(items.into_iter().map(read).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        for write in &commit.writes {
            self.check(write.key())?;
            if self.is_contended(write.key()) {
                let key = write.key().clone();
                return Err(CommitError::Conflict { key, current: None });
            }
        }
        self.inner.commit(commit).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.inner.query(query).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.inner.due(shard, until, limit, cursor).await
    }
}
