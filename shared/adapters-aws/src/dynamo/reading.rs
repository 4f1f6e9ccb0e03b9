//! A store that is only read.

use async_trait::async_trait;
use watchbill_core::domain::Timestamp;
use watchbill_core::ports::{
    Commit, CommitError, DueKey, Item, Key, Page, Query, Store, StoreError,
};

/// Another store without its commits: for a function that has no right to write.
pub struct Reading<S>(pub S);

#[async_trait]
impl<S: Store> Store for Reading<S> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.0.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.0.collect(partition, prefix).await
    }

    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        self.0.collect_each(partition, prefix).await
    }

    async fn commit(&self, _commit: Commit) -> Result<(), CommitError> {
        let reason = "this function is set up to read the table alone".to_owned();
        Err(CommitError::Store(StoreError::Down { reason }))
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.0.query(query).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.0.due(shard, until, limit, cursor).await
    }
}
