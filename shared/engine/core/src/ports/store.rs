//! The store port: items, conditional commits, two lists, due times. It knows nothing about tasks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use watchbill_domain::Timestamp;

/// The most writes one commit may hold (the limit of a DynamoDB transaction).
pub const MAX_WRITES: usize = 100;

/// The number of shards that due times are spread over.
pub const DUE_SHARDS: u8 = 32;

/// The address of an item: a partition and a sort key within it. The repositories start a
/// tenant's partitions with the tenant's prefix; the store compares keys as bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub partition: Arc<str>,
    pub sort: Arc<str>,
}

impl Key {
    pub fn new(partition: impl Into<Arc<str>>, sort: impl Into<Arc<str>>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.sort)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.sort)
    }
}

/// A random mark that a commit leaves in every item it puts. If a condition fails and the
/// current item has our mark, our own commit succeeded and its response was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteId(pub u128);

/// An entry in a list. Within a partition entries are ordered by `sort`, bytewise, then by item
/// key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListEntry {
    pub partition: Arc<str>,
    pub sort: Arc<str>,
}

/// An item to write. Its version is the expected version plus one, so it has no field for it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    pub key: Key,
    /// The type of the body: `task`, `approval`, …
    pub kind: Cow<'static, str>,
    /// Version of the body's format; a reader that only knows older ones returns
    /// [`StoreError::Newer`].
    pub schema: u16,
    pub body: Bytes,
    /// The first list: every item of its kind. Should never change once set.
    pub list: Option<ListEntry>,
    /// The second, sparse list: only while the item needs attention.
    pub list2: Option<ListEntry>,
    /// When the item should be checked again; `None`: never.
    pub due: Option<Timestamp>,
    /// After this time the store may remove the item by itself (late, and not exactly). An item
    /// of sort `0` is the head of its partition, and the whole partition is removed with it.
    pub expires: Option<Timestamp>,
}

/// An item as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub key: Key,
    /// Starts at 1 and grows by one with each write.
    pub version: u64,
    pub write_id: WriteId,
    pub kind: Arc<str>,
    pub schema: u16,
    pub body: Bytes,
    pub list: Option<ListEntry>,
    pub list2: Option<ListEntry>,
    pub due: Option<Timestamp>,
    pub expires: Option<Timestamp>,
    /// Guarded counters of this item (see [`Write::Add`]); empty for most items.
    pub counters: BTreeMap<String, i64>,
}

/// The condition that an item must meet for a commit to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    Absent,
    Version(u64),
}

/// An addition to a counter of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct CounterAdd {
    pub name: &'static str,
    pub delta: i64,
    /// The sum after the addition must not exceed this.
    pub ceiling: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Puts a whole item. Keeps the counters the item has.
    Put { item: NewItem, expect: Precondition },
    /// Removes an item.
    Delete { key: Key, expect: Precondition },
    /// Only checks the condition.
    Check { key: Key, expect: Precondition },
    /// Adds to counters of an item, which is created if absent (version 1, empty body); its
    /// version grows. All ceilings hold or nothing is written. Legal only next to a guarded
    /// put, because a repeated addition alone cannot be recognised.
    Add { key: Key, kind: &'static str, adds: Vec<CounterAdd>, expires: Option<Timestamp> },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { item, .. } => &item.key,
            Write::Delete { key, .. } | Write::Check { key, .. } | Write::Add { key, .. } => key,
        }
    }
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Commit {
    pub id: WriteId,
    pub writes: Vec<Write>,
}

impl Commit {
    /// The checks that every adapter makes before it reads an item.
    pub fn check_legal(&self) -> Result<(), CommitError> {
        let illegal = |reason: String| Err(CommitError::Illegal { reason });
        if self.writes.is_empty() || self.writes.len() > MAX_WRITES {
            return illegal(format!(
                "a commit holds 1 to {MAX_WRITES} writes, not {}",
                self.writes.len()
            ));
        }
        if let [Write::Put { .. } | Write::Delete { .. } | Write::Check { .. }] = &self.writes[..] {
            return Ok(());
        }
        let mut keys: Vec<&Key> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return illegal(format!("the key {} is written twice", twice[0]));
        }
        let guarded = self.writes.iter().any(|write| matches!(write, Write::Put { .. }));
        for write in &self.writes {
            let Write::Add { key, adds, .. } = write else { continue };
            if !guarded {
                return illegal(format!(
                    "the counters of {key} need a guarded put in the same commit"
                ));
            }
            let twice = |(at, add): (usize, &CounterAdd)| {
                adds[..at].iter().any(|before| before.name == add.name)
            };
            if adds.is_empty() || adds.iter().enumerate().any(twice) {
                return illegal(format!("the add to {key} names no counter, or one counter twice"));
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A condition did not hold; nothing was written. `current` is the item as it is now.
    #[error("conflict on {key}")]
    Conflict { key: Key, current: Option<Box<Item>> },
    /// Retry after about this long, with jitter.
    #[error("the store is busy; try again in {after:?}")]
    Busy { after: Duration },
    /// The commit may have succeeded or not: load and compare the write id, or commit the same
    /// again.
    #[error("the outcome of the commit is unknown: {reason}")]
    Unknown { reason: String },
    /// The commit itself is wrong (too many writes, an unguarded counter, a key twice).
    #[error("illegal commit: {reason}")]
    Illegal { reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the store is busy; try again in {after:?}")]
    Busy { after: Duration },
    /// Unreachable or broken; the reason is for the operator.
    #[error("the store can't be reached: {reason}")]
    Down { reason: String },
    /// The item that was read cannot be parsed.
    #[error("unreadable item {key}: {reason}")]
    Corrupt { key: Key, reason: String },
    /// Written by a newer version of this program than the reader.
    #[error(
        "item {key} has schema {found}, this build knows up to {known}: try again with the newer \
         build"
    )]
    Newer { key: Key, found: u16, known: u16 },
    #[error("bad cursor: {0}")]
    BadCursor(String),
}

impl StoreError {
    /// The key of the unreadable item, if that is the error: other items can still be read.
    pub fn unreadable(&self) -> Option<&Key> {
        match self {
            StoreError::Corrupt { key, .. } | StoreError::Newer { key, .. } => Some(key),
            StoreError::Busy { .. } | StoreError::Down { .. } | StoreError::BadCursor(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhichList {
    First,
    Second,
}

/// A half-open range of list sort values: `from <= sort < to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRange {
    pub from: Option<Arc<str>>,
    pub to: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct Query {
    pub list: WhichList,
    pub partition: Arc<str>,
    pub range: ListRange,
    /// Newest (greatest sort) first.
    pub descending: bool,
    pub limit: usize,
    /// From the previous page, or a [`ListCursor`](super::ListCursor)'s text.
    pub cursor: Option<String>,
}

/// A page of keys, with the cursor of the next page if there is more.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub entries: Vec<T>,
    pub next: Option<String>,
}

/// A key that is due, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueKey {
    pub key: Key,
    pub due: Timestamp,
}

/// One record of the change feed: this item has been written, and `image` is the item at that
/// version or a later one (`None`: it was deleted, or expired).
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    pub version: u64,
    pub image: Option<Item>,
}

/// Which of the [`DUE_SHARDS`] holds an item's due time: FNV-1a of the partition, so that every
/// adapter and every release agrees.
pub fn due_shard(partition: &str) -> u8 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in partition.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits of FNV are mixed worst; combine them with the high half.
    ((hash ^ (hash >> 32)) % u64::from(DUE_SHARDS)) as u8
}

/// The store port. Reads by key are strongly consistent. `query` may lag and is for display
/// only; before acting on `due`, read the item by key.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError>;

    /// In the order of `keys`.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError>;

    /// Every item of a partition whose sort begins with `prefix`, ordered by sort.
    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError>;

    /// The same, with the error in place of an unreadable item. By default one unreadable item
    /// fails the whole call.
    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        Ok(self.collect(partition, prefix).await?.into_iter().map(Ok).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError>;

    /// Items of a shard that are due at or before a time, the longest due first.
    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError>;
}
