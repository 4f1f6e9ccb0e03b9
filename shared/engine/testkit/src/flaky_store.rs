//! A store whose commit results are unreliable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{
    Commit, CommitError, DueKey, Entropy, Item, Key, Page, Query, Store, StoreError,
};
use watchbill_domain::Timestamp;

use crate::SeededEntropy;

/// Answers a share of the commits, chosen by a seed, with `Busy`, or with `Unknown` before or
/// after the write. Yields before and after each call, so that tasks on one thread interleave
/// in many orders.
pub struct FlakyStore {
    inner: Arc<dyn Store>,
    dice: SeededEntropy,
    percent: AtomicU64,
}

impl FlakyStore {
    /// `percent`: how many of a hundred commits get a wrong answer.
    pub fn new(inner: Arc<dyn Store>, seed: u64, percent: u64) -> Self {
        Self { inner, dice: SeededEntropy::new(seed), percent: AtomicU64::new(percent) }
    }

    /// From now on every commit returns its real result.
    pub fn answer_rightly(&self) {
        self.percent.store(0, Ordering::Relaxed);
    }

    async fn others_first(&self) {
        for _ in 0..self.dice.next_u64() % 4 {
            tokio::task::yield_now().await;
        }
    }

    /// Yields before and after the call.
    async fn among<T>(&self, call: impl Future<Output = T>) -> T {
        self.others_first().await;
        let answer = call.await;
        self.others_first().await;
        answer
    }
}

#[async_trait]
impl Store for FlakyStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.among(self.inner.get(key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.among(self.inner.get_many(keys)).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.among(self.inner.collect(partition, prefix)).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let unknown = || CommitError::Unknown { reason: "no answer, on purpose".into() };
        if self.dice.next_u64() % 100 >= self.percent.load(Ordering::Relaxed) {
            return self.among(self.inner.commit(commit)).await;
        }
        match self.dice.next_u64() % 3 {
            0 => Err(CommitError::Busy { after: Duration::from_millis(10) }),
            1 => Err(unknown()),
            _ => {
                self.among(self.inner.commit(commit)).await?;
                Err(unknown())
            }
        }
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.among(self.inner.query(query)).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.among(self.inner.due(shard, until, limit, cursor)).await
    }
}
