//! A store that a test scripts: reads of some items fail, and an action runs right before a
//! commit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{
    Commit, CommitError, DueKey, Item, Key, Page, Query, Store, StoreError,
};
use watchbill_domain::Timestamp;

type Before = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How reads fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    Busy,
    Down,
    Corrupt,
    Newer,
}

pub struct ScriptedStore {
    inner: Arc<dyn Store>,
    /// Items whose partition contains this text can't be read.
    fault: Mutex<Option<(&'static str, ReadFault)>>,
    before_commit: Mutex<Option<Before>>,
}

impl ScriptedStore {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, fault: Mutex::default(), before_commit: Mutex::default() }
    }

    /// From now on reads of items whose partition contains the text fail. `None` removes the
    /// fault.
    pub fn fail_reads(&self, fault: Option<(&'static str, ReadFault)>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Runs an action before the next commit, once.
    pub fn before_next_commit(&self, what: Before) {
        *self.before_commit.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    fn check(&self, key: &Key) -> Result<(), StoreError> {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, fault)) = fault.filter(|(part, _)| key.partition.contains(part)) else {
            return Ok(());
        };
        let key = key.clone();
        Err(match fault {
            ReadFault::Busy => StoreError::Busy { after: Duration::from_millis(10) },
            ReadFault::Down => StoreError::Down { reason: "out of reach, on purpose".into() },
            ReadFault::Corrupt => StoreError::Corrupt { key, reason: "on purpose".into() },
            ReadFault::Newer => StoreError::Newer { key, found: 9, known: 1 },
        })
    }
}

#[async_trait]
impl Store for ScriptedStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.check(key)?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        keys.iter().try_for_each(|key| self.check(key))?;
        self.inner.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.inner.collect(partition, prefix).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        let before = self.before_commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before {
            before.await;
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
