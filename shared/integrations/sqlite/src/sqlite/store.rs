//! Implements the store port, and what the embedded bundle needs beyond it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::oneshot;
use watchbill_core::offload::{BlockingPool, IsAbandoned};
use watchbill_core::ports::{
    Change, Commit, CommitError, DueKey, Item, Key, ListEntry, Page, Query, Store, StoreError,
    Write,
};
use watchbill_domain::Timestamp;

use super::queue::{Job, QueueError};
use super::reader::ShortRead;
use super::{OpenError, Shared, SqliteStore, codec, reader, schema};

/// Retry delay when the queue is full: the time of some groups.
const BUSY: Duration = Duration::from_millis(50);

impl SqliteStore {
    /// Reads up to `max` changes after number `after` from the table, in commit order, each
    /// with the item as it is now. [`ChangeFeed`](super::ChangeFeed) follows more cheaply.
    pub async fn changes(&self, after: u64, max: usize) -> Result<Vec<(u64, Change)>, StoreError> {
        self.blocking(&self.own_reads, move |shared, _| {
            let conn = shared.readers.one();
            let found = reader::changes(&conn, after, max)?;
            found
                .into_iter()
                .map(|(seq, key, version)| {
                    let image = shared.readable(&conn, &key)?;
                    Ok((seq, Change { key, version, image }))
                })
                .collect()
        })
        .await
    }

    /// Removes up to `limit` groups of changes that end at or before `upto`, but never the
    /// newest. Returns how many. The caller must know every follower.
    pub async fn trim_changes(&self, upto: u64, limit: usize) -> Result<usize, StoreError> {
        let (answer, done) = oneshot::channel();
        self.count(Job::Trim { upto, limit, answer }, done).await
    }

    /// Removes up to `limit` items expired at `now` and returns how many.
    pub async fn purge_expired(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let (answer, done) = oneshot::channel();
        self.count(Job::Purge { now, limit, answer }, done).await
    }

    async fn count(
        &self,
        job: Job,
        done: oneshot::Receiver<Result<usize, StoreError>>,
    ) -> Result<usize, StoreError> {
        match self.shared.queue.push(job) {
            Ok(()) => done.await.unwrap_or_else(|_| Err(no_answer())),
            Err(QueueError::Full) => Err(StoreError::Busy { after: BUSY }),
            Err(QueueError::Closed(reason)) => Err(StoreError::Down { reason }),
        }
    }

    /// Writes a compact copy of the whole store, as of now, while the store is in use.
    pub async fn backup_to(&self, to: &Path) -> Result<(), OpenError> {
        let (from, to) = (self.path().to_owned(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            // Its own connection, because a copy may take long.
            let conn = Connection::open(&from)
                .map_err(|source| OpenError::from_sqlite("open", &from, source))?;
            schema::backup(&conn, &to)
        });
        copied.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Runs a possibly long read on a blocking thread, at most as many at once as `within`
    /// allows.
    async fn blocking<T: Send + 'static>(
        &self,
        within: &BlockingPool,
        read: impl FnOnce(&Shared, &IsAbandoned) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        within.run(move |abandoned| read(&shared, abandoned)).await
    }
}

fn no_answer() -> StoreError {
    StoreError::Down { reason: "the store stopped before it responded".into() }
}

impl Shared {
    fn get_with(&self, conn: &Connection, key: &Key) -> Result<Option<Item>, StoreError> {
        match self.recent.get(key) {
            Some(item) => Ok(Some(Item::clone(&item))),
            None => reader::get(conn, key),
        }
    }

    /// The item, or `None` if it can't be read, so that the feed continues past it.
    fn readable(&self, conn: &Connection, key: &Key) -> Result<Option<Item>, StoreError> {
        match self.get_with(conn, key) {
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%key, %error, "the feed passes over an unreadable item");
                Ok(None)
            }
            found => found,
        }
    }
}

/// Refuses what only this store can't hold: see `codec`.
fn check_borders(commit: &Commit) -> Result<(), CommitError> {
    let fits = |entry: &Option<ListEntry>| {
        entry.as_ref().is_none_or(|entry| codec::fits_before_border(&entry.partition))
    };
    let ok = commit.writes.iter().all(|write| {
        codec::fits_before_border(&write.key().partition)
            && match write {
                Write::Put { item, .. } => fits(&item.list) && fits(&item.list2),
                _ => true,
            }
    });
    let reason = "a partition contains a NUL character: escape it".to_owned();
    if ok { Ok(()) } else { Err(CommitError::Illegal { reason }) }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        if let Some(item) = self.shared.recent.get(key) {
            return Ok(Some(Item::clone(&item)));
        }
        let short = reader::get_short(&self.shared.readers.one(), key)?;
        match short {
            ShortRead::Found(item) => Ok(item),
            ShortRead::Long => {
                let key = key.clone();
                self.blocking(&self.long_reads, move |shared, _| {
                    shared.get_with(&shared.readers.one(), &key)
                })
                .await
            }
        }
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        if let [key] = keys {
            return Ok(vec![self.get(key).await?]);
        }
        let recent = |key| self.shared.recent.get(key).map(|item| Item::clone(&item));
        let found: Option<Vec<Item>> = keys.iter().map(recent).collect();
        if let Some(found) = found {
            return Ok(found.into_iter().map(Some).collect());
        }
        let keys = keys.to_vec();
        self.blocking(&self.long_reads, move |shared, abandoned| {
            let conn = shared.readers.one();
            let present = keys.iter().take_while(|_| !abandoned.is_set());
            present.map(|key| shared.get_with(&conn, key)).collect()
        })
        .await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.collect_each(partition, prefix).await?.into_iter().collect()
    }

    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        let (partition, prefix): (Arc<str>, Arc<str>) = (partition.into(), prefix.into());
        self.blocking(&self.long_reads, move |shared, abandoned| {
            reader::collect(&shared.readers.one(), &partition, &prefix, abandoned)
        })
        .await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        commit.check_legal()?;
        check_borders(&commit)?;
        let (answer, done) = oneshot::channel();
        match self.shared.queue.push(Job::Commit { commit, answer }) {
            Ok(()) => done.await.unwrap_or_else(|_| {
                let reason = "the store stopped before it responded".to_owned();
                Err(CommitError::Unknown { reason })
            }),
            Err(QueueError::Full) => Err(CommitError::Busy { after: BUSY }),
            Err(QueueError::Closed(reason)) => Err(StoreError::Down { reason }.into()),
        }
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.blocking(&self.long_reads, move |shared, _| {
            reader::query(&shared.readers.one(), &query)
        })
        .await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.blocking(&self.own_reads, move |shared, _| {
            reader::due(&shared.readers.one(), shard, until, limit, cursor.as_deref())
        })
        .await
    }
}
