//! The store port in memory, with its change feed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use watchbill_core::ports::{
    Change, Commit, CommitError, CounterAdd, DUE_SHARDS, DueKey, Item, Key, ListCursor, NewItem,
    Page, Precondition, Query, Store, StoreError, WhichList, Write, WriteId, due_shard,
};
use watchbill_core::repo::HEAD;
use watchbill_domain::Timestamp;

/// The store port in memory, with its change feed. Nothing is persisted, and the feed keeps
/// every change.
pub struct MemoryStore {
    inner: Mutex<Inner>,
    last_seq: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    items: BTreeMap<Key, Item>,
    lists: [BTreeSet<ListRow>; 2],
    due: BTreeSet<(u8, Timestamp, Key)>,
    /// Change `n` is at index `n - 1`.
    changes: Vec<(Key, u64)>,
    /// How many of the next commits are answered with `Busy`.
    busy: usize,
    /// How many of the next commits are written but answered with `Unknown`.
    lost: usize,
}

/// Partition, sort, item: the order of a list.
type ListRow = (Arc<str>, Arc<str>, Key);

impl Default for MemoryStore {
    fn default() -> Self {
        Self { inner: Mutex::default(), last_seq: watch::Sender::new(0) }
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the next `n` commits with `Busy` and writes nothing, as a throttled store does.
    pub fn refuse_next(&self, n: usize) {
        self.inner().busy = n;
    }

    /// Carries out the next `n` commits and loses their answers.
    pub fn lose_answers(&self, n: usize) {
        self.inner().lost = n;
    }

    /// The number of the last change; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        *self.last_seq.borrow()
    }

    /// Changes after number `after` in commit order, with the current images of their items.
    pub fn changes(&self, after: u64, max: usize) -> Vec<(u64, Change)> {
        let inner = self.inner();
        let image = |(seq, (key, version)): (u64, &(Key, u64))| {
            let image = inner.items.get(key).cloned();
            (seq, Change { key: key.clone(), version: *version, image })
        };
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        (after + 1..).zip(inner.changes.iter().skip(skip)).take(max).map(image).collect()
    }

    /// Every item, ordered by key, for a test's final checks.
    pub fn items(&self) -> Vec<Item> {
        self.inner().items.values().cloned().collect()
    }

    /// Removes up to `limit` expired items. Removing a head also removes the rest of its
    /// partition.
    pub fn purge_expired(&self, now: Timestamp, limit: usize) -> usize {
        let mut inner = self.inner();
        let old = |item: &&Item| item.expires.is_some_and(|at| at <= now);
        let keys: Vec<Key> =
            inner.items.values().filter(old).take(limit).map(|item| item.key.clone()).collect();
        let heads: BTreeSet<&str> =
            keys.iter().filter(|k| &*k.sort == HEAD).map(|k| &*k.partition).collect();
        let extra_writes = inner.items.keys().filter(|key| heads.contains(&*key.partition));
        let gone: BTreeSet<Key> = extra_writes.cloned().chain(keys.iter().cloned()).collect();
        for key in &gone {
            inner.remove(key);
        }
        self.last_seq.send_replace(inner.changes.len() as u64);
        gone.len()
    }
}

/// Follows a [`MemoryStore`]'s change feed from a given number on.
pub struct MemoryFeed {
    store: Arc<MemoryStore>,
    after: u64,
    seen: watch::Receiver<u64>,
}

impl MemoryFeed {
    pub fn open(store: Arc<MemoryStore>, after: u64) -> Self {
        let seen = store.last_seq.subscribe();
        Self { store, after, seen }
    }

    /// Waits for at least one change and returns up to `max`.
    pub async fn next(&mut self, max: usize) -> Vec<(u64, Change)> {
        let after = self.after;
        // Can't fail: our store owns the sender.
        let _ = self.seen.wait_for(|last| *last > after).await;
        let changes = self.store.changes(after, max);
        self.after = changes.last().map_or(after, |(seq, _)| *seq);
        changes
    }
}

impl Inner {
    fn holds(&self, key: &Key, expect: Precondition) -> bool {
        match (expect, self.items.get(key)) {
            (Precondition::Absent, None) => true,
            (Precondition::Version(version), Some(item)) => item.version == version,
            _ => false,
        }
    }

    fn fits(&self, write: &Write) -> bool {
        match write {
            Write::Put { item, expect } => self.holds(&item.key, *expect),
            Write::Delete { key, expect } | Write::Check { key, expect } => {
                self.holds(key, *expect)
            }
            Write::Add { key, adds, .. } => {
                let counters = self.items.get(key).map(|item| &item.counters);
                adds.iter().all(|add| {
                    let now = counters.and_then(|c| c.get(add.name)).copied().unwrap_or(0);
                    add.ceiling.is_none_or(|most| now.saturating_add(add.delta) <= most)
                })
            }
        }
    }

    fn commit(&mut self, commit: Commit) -> Result<(), CommitError> {
        if let Some(failed) = commit.writes.iter().find(|write| !self.fits(write)) {
            let ours = |write: &Write| {
                matches!(write, Write::Put { .. } | Write::Add { .. })
                    && self.items.get(write.key()).is_some_and(|i| i.write_id == commit.id)
            };
            if commit.writes.iter().any(ours) {
                return Ok(());
            }
            let key = failed.key().clone();
            let current = self.items.get(&key).cloned().map(Box::new);
            return Err(CommitError::Conflict { key, current });
        }
        for write in commit.writes {
            match write {
                Write::Put { item, .. } => self.put(item, commit.id),
                Write::Delete { key, .. } => self.remove(&key),
                Write::Check { .. } => {}
                Write::Add { key, kind, adds, expires } => {
                    self.add(key, kind, &adds, expires, commit.id);
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, new: NewItem, write_id: WriteId) {
        let old = self.items.get(&new.key);
        let item = Item {
            version: old.map_or(1, |item| item.version + 1),
            counters: old.map(|item| item.counters.clone()).unwrap_or_default(),
            write_id,
            kind: new.kind.into(),
            key: new.key,
            schema: new.schema,
            body: new.body,
            list: new.list,
            list2: new.list2,
            due: new.due,
            expires: new.expires,
        };
        self.write(item);
    }

    fn add(
        &mut self,
        key: Key,
        kind: &str,
        adds: &[CounterAdd],
        expires: Option<Timestamp>,
        write_id: WriteId,
    ) {
        let mut item = self.items.get(&key).cloned().unwrap_or_else(|| Item {
            key,
            version: 0,
            write_id,
            kind: kind.into(),
            schema: 0,
            body: Bytes::new(),
            list: None,
            list2: None,
            due: None,
            expires: None,
            counters: BTreeMap::new(),
        });
        item.version += 1;
        item.write_id = write_id;
        item.expires = expires.or(item.expires);
        for add in adds {
            let sum = item.counters.entry(add.name.to_owned()).or_default();
            *sum = sum.saturating_add(add.delta);
        }
        self.write(item);
    }

    fn write(&mut self, item: Item) {
        if let Some(old) = self.items.get(&item.key).cloned() {
            self.unlink(&old);
        }
        for (list, entry) in self.lists.iter_mut().zip([&item.list, &item.list2]) {
            if let Some(entry) = entry {
                list.insert((entry.partition.clone(), entry.sort.clone(), item.key.clone()));
            }
        }
        if let Some(due) = item.due {
            self.due.insert((due_shard(&item.key.partition), due, item.key.clone()));
        }
        self.changes.push((item.key.clone(), item.version));
        self.items.insert(item.key.clone(), item);
    }

    fn unlink(&mut self, old: &Item) {
        for (list, entry) in self.lists.iter_mut().zip([&old.list, &old.list2]) {
            if let Some(entry) = entry {
                list.remove(&(entry.partition.clone(), entry.sort.clone(), old.key.clone()));
            }
        }
        if let Some(due) = old.due {
            self.due.remove(&(due_shard(&old.key.partition), due, old.key.clone()));
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.items.remove(key) {
            self.unlink(&old);
            self.changes.push((old.key, old.version + 1));
        }
    }
}

/// A page of an ordered set: up to `limit` rows, and a cursor if there are more.
fn page<R, T>(
    mut rows: impl Iterator<Item = R>,
    limit: usize,
    cursor: impl Fn(&R) -> String,
    entry: impl Fn(R) -> T,
) -> Page<T> {
    let taken: Vec<R> = rows.by_ref().take(limit).collect();
    let next = if rows.next().is_some() { taken.last().map(cursor) } else { None };
    Page { entries: taken.into_iter().map(entry).collect(), next }
}

fn cursor_of(sort: &str, key: &Key) -> String {
    ListCursor { sort: sort.into(), key: key.clone() }.to_string()
}

fn read_cursor(text: &str) -> Result<(String, Key), StoreError> {
    let cursor = ListCursor::parse(text)?;
    Ok((cursor.sort.to_string(), cursor.key))
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        Ok(self.inner().items.get(key).cloned())
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        let inner = self.inner();
        Ok(keys.iter().map(|key| inner.items.get(key).cloned()).collect())
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        let inner = self.inner();
        let belongs = |key: &Key| &*key.partition == partition && key.sort.starts_with(prefix);
        let from = inner.items.range(Key::new(partition, prefix)..);
        Ok(from.take_while(|(key, _)| belongs(key)).map(|(_, item)| item.clone()).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        commit.check_legal()?;
        let mut inner = self.inner();
        if inner.busy > 0 {
            inner.busy -= 1;
            return Err(CommitError::Busy { after: Duration::from_millis(10) });
        }
        inner.commit(commit)?;
        self.last_seq.send_replace(inner.changes.len() as u64);
        if inner.lost > 0 {
            inner.lost -= 1;
            return Err(CommitError::Unknown { reason: "the answer was lost on purpose".into() });
        }
        Ok(())
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        let after = query.cursor.as_deref().map(read_cursor).transpose()?;
        let inner = self.inner();
        let list = match query.list {
            WhichList::First => &inner.lists[0],
            WhichList::Second => &inner.lists[1],
        };
        let fits = |(partition, sort, key): &&ListRow| {
            let past = after.as_ref().is_none_or(|(after_sort, after_key)| {
                let order = (&**sort, key).cmp(&(after_sort.as_str(), after_key));
                if query.descending { order.is_lt() } else { order.is_gt() }
            });
            *partition == query.partition
                && query.range.from.as_ref().is_none_or(|from| sort >= from)
                && query.range.to.as_ref().is_none_or(|to| sort < to)
                && past
        };
        let first = (query.partition.clone(), Arc::from(""), Key::new("", ""));
        let rows = list
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(partition, ..)| *partition == query.partition)
            .filter(fits);
        let cursor = |row: &&ListRow| cursor_of(&row.1, &row.2);
        Ok(if query.descending {
            let rows: Vec<&ListRow> = rows.collect();
            page(rows.into_iter().rev(), query.limit, cursor, |row| row.2.clone())
        } else {
            page(rows, query.limit, cursor, |row| row.2.clone())
        })
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        let after = cursor.as_deref().map(read_cursor).transpose()?;
        let after = match after {
            None => None,
            Some((millis, key)) => {
                let millis = millis.parse().map_err(|_| StoreError::BadCursor(millis))?;
                Some((shard, Timestamp::from_millis(millis), key))
            }
        };
        if shard >= DUE_SHARDS {
            return Ok(Page { entries: Vec::new(), next: None });
        }
        let inner = self.inner();
        let first = (shard, Timestamp::from_millis(i64::MIN), Key::new("", ""));
        let from = after.map_or(Bound::Included(first), Bound::Excluded);
        let rows = inner
            .due
            .range((from, Bound::Unbounded))
            .take_while(|(at, due, _)| *at == shard && *due <= until);
        Ok(page(
            rows,
            limit,
            |(_, due, key)| cursor_of(&due.millis().to_string(), key),
            |(_, due, key)| DueKey { key: key.clone(), due: *due },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_suite::{Follow, StoreUnderTest, commit, create, get, key};

    struct UnderTest(Arc<MemoryStore>);

    #[async_trait]
    impl StoreUnderTest for UnderTest {
        fn store(&self) -> Arc<dyn Store> {
            self.0.clone()
        }

        fn follow(&self, after: u64) -> Box<dyn Follow> {
            Box::new(MemoryFeed::open(self.0.clone(), after))
        }

        async fn reopen(&mut self) {}
    }

    #[async_trait]
    impl Follow for MemoryFeed {
        async fn next(&mut self, max: usize) -> Vec<(u64, Change)> {
            MemoryFeed::next(self, max).await
        }
    }

    crate::store_suite!(async { UnderTest(Arc::new(MemoryStore::new())) });

    #[tokio::test]
    async fn a_refused_commit_does_nothing_and_a_lost_answer_was_a_success() {
        let memory = Arc::new(MemoryStore::new());
        let store: Arc<dyn Store> = memory.clone();
        memory.refuse_next(1);
        let busy = commit(&store, 1, [create(key("a", "0"), "")]).await;
        assert!(matches!(busy, Err(CommitError::Busy { .. })), "{busy:?}");
        assert_eq!(get(&store, &key("a", "0")).await, None);
        memory.lose_answers(1);
        let lost = commit(&store, 1, [create(key("a", "0"), "")]).await;
        assert!(matches!(lost, Err(CommitError::Unknown { .. })), "{lost:?}");
        commit(&store, 1, [create(key("a", "0"), "")]).await.unwrap();
        assert_eq!(memory.last_seq(), 1);
    }
}
