//! The store: items, conditional commits, two lists, due times. It knows nothing of tasks.

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

/// Into how many shards due times are spread.
pub const DUE_SHARDS: u8 = 32;

/// Where an item stands: a partition and a place in it. Both begin with the tenant's
/// prefix by the repositories' doing; the store compares them as bytes.
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

/// A random mark that a commit leaves in every item it puts: a failed condition whose
/// current item bears our mark was our own success with its answer lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteId(pub u128);

/// A place in a list. Within a partition entries are ordered by `sort`, bytewise, then by
/// item key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListEntry {
    pub partition: Arc<str>,
    pub sort: Arc<str>,
}

/// What a writer puts. The version is the expected one plus one, so it is not said again.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    pub key: Key,
    /// What the body is: `task`, `approval`, …
    pub kind: Cow<'static, str>,
    /// Version of the body's form; a reader that knows only older ones answers Retry.
    pub schema: u16,
    pub body: Bytes,
    /// The first list: every item of its kind. Should never change once set.
    pub list: Option<ListEntry>,
    /// The second, sparse list: only while it has attention due.
    pub list2: Option<ListEntry>,
    /// When someone should look at the item again. Open means due.
    pub due: Option<Timestamp>,
    /// After this time the store may remove the item by itself (late, and not exactly). An
    /// item of sort `0` is the head of its partition and takes the whole of it along.
    pub expires: Option<Timestamp>,
}

/// What a reader gets.
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
    /// Guarded counters of this item (see [`Write::Add`]); empty for most.
    pub counters: BTreeMap<String, i64>,
}

/// What must be true of an item for a commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Version(u64),
}

/// One addition to a counter of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct CounterAdd {
    pub name: &'static str,
    pub delta: i64,
    /// The sum after the addition may not be above this.
    pub ceiling: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Puts a whole item. Keeps the counters the item has.
    Put { item: NewItem, expect: Expect },
    /// Removes an item.
    Delete { key: Key, expect: Expect },
    /// Only demands.
    Check { key: Key, expect: Expect },
    /// Adds to counters of an item, which is made if absent (version 1, empty body); its
    /// version grows. All ceilings hold or nothing is written. Legal only beside a guarded
    /// put in the same commit, because an addition alone can't be recognised when repeated.
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

/// All or nothing.
#[derive(Clone, Debug)]
pub struct Commit {
    pub id: WriteId,
    pub writes: Vec<Write>,
}

impl Commit {
    /// What every adapter refuses before it looks at an item.
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
                return illegal(format!("the counters of {key} need a guarded put beside them"));
            }
            let twice = |(at, add): (usize, &CounterAdd)| {
                adds[..at].iter().any(|before| before.name == add.name)
            };
            if adds.is_empty() || adds.iter().enumerate().any(twice) {
                return illegal(format!("{key} adds nothing, or twice to the same counter"));
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
    /// Try the same again after about this long, with jitter.
    #[error("the store is busy; try again in {after:?}")]
    Busy { after: Duration },
    /// It may have happened or not: load and look for the write id, or commit the same again.
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
    /// Out of reach or broken; the reason is for the operator.
    #[error("the store can't be reached: {reason}")]
    Down { reason: String },
    /// What was read can't be understood.
    #[error("unreadable item {key}: {reason}")]
    Corrupt { key: Key, reason: String },
    /// Written by a newer version of this program than the one that reads it.
    #[error(
        "item {key} has schema {found}, this build knows up to {known}: try again with the newer build"
    )]
    Newer { key: Key, found: u16, known: u16 },
    #[error("bad cursor: {0}")]
    BadCursor(String),
}

impl StoreError {
    /// Which item can't be read, where that is what is wrong: the others can be.
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
    /// From the page before, or a [`ListCursor`](super::ListCursor)'s text.
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

/// One line of the change feed: this item has been written, and `image` is the item at
/// that version or a later one (`None`: it was deleted, or expired).
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    pub version: u64,
    pub image: Option<Item>,
}

/// In which of the [`DUE_SHARDS`] an item's due time is kept: FNV-1a of the partition, so
/// that every adapter and every release agrees.
pub fn due_shard(partition: &str) -> u8 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in partition.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits of FNV mix worst; fold the high half in.
    ((hash ^ (hash >> 32)) % u64::from(DUE_SHARDS)) as u8
}

/// The store port. Reads by key are strongly consistent; `query` may lag and serves
/// screens only; whoever acts on `due` reads the item by key first.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError>;

    /// Answers in the order asked.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError>;

    /// Every item of a partition whose sort begins with `prefix`, ordered by sort.
    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError>;

    /// The same, with why one of them can't be read in its place. By default one that can't be
    /// read fails them all.
    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        Ok(self.collect(partition, prefix).await?.into_iter().map(Ok).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError>;

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError>;

    /// Items of a shard that are due until (and at) a moment, the longest due first.
    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError>;
}
