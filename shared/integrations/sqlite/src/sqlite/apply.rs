//! Applies a group of commits in one transaction. Each commit is checked against the writes of
//! those before it in the group, and writes all or nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use watchbill_core::ports::{
    Commit, CommitError, CounterAdd, Item, Key, NewItem, Precondition, StoreError, Write, WriteId,
};
use watchbill_core::repo::HEAD;
use watchbill_domain::Timestamp;

use super::codec::pack_change;
use super::recent::{CachedItem, ItemCache};
use super::statements::{Changed, Sql, Statements};
use super::tail::TailChange;

/// A commit's result, provided that its transaction commits.
pub(super) type CommitResult = Result<(), CommitError>;

pub(super) struct Applier<'c> {
    pub(super) statements: Statements<'c>,
    recent: Arc<ItemCache>,
    kinds: Vec<Arc<str>>,
    last_id: i64,
    last_seq: u64,
    /// Items touched by this group, as they are inside its transaction.
    touched: HashMap<Key, Option<CachedItem>>,
    changes: Vec<TailChange>,
    packed: Vec<u8>,
}

impl<'c> Applier<'c> {
    pub(super) fn new(
        statements: Statements<'c>,
        recent: Arc<ItemCache>,
        (last_id, last_seq): (i64, u64),
    ) -> Self {
        Self {
            statements,
            recent,
            kinds: Vec::new(),
            last_id,
            last_seq,
            touched: HashMap::new(),
            changes: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// Applies a legal commit. An outer error fails the whole group.
    pub(super) fn commit(&mut self, commit: Commit) -> Sql<CommitResult> {
        let id = commit.id;
        if let [Write::Put { item, expect: Precondition::Absent }] = &commit.writes[..] {
            // The common case needs no lookup: the unique index shows whether the key exists.
            return self.create_alone(item, id);
        }
        for write in &commit.writes {
            if let Err(unreadable) = self.load(write.key())? {
                return Ok(Err(unreadable.into()));
            }
        }
        if let Some(failed) = commit.writes.iter().find(|write| !self.fits(write)) {
            return Ok(self.refuse(&commit, failed.key()));
        }
        for write in commit.writes {
            match write {
                Write::Put { item, .. } => self.put(item, id)?,
                Write::Delete { key, .. } => self.delete(&key)?,
                Write::Check { .. } => {}
                Write::Add { key, kind, adds, expires } => {
                    self.add(key, kind, &adds, expires, id)?;
                }
            }
        }
        Ok(Ok(()))
    }

    /// Removes up to `limit` expired items. A header takes its partition with it.
    pub(super) fn purge(&mut self, now: Timestamp, limit: usize) -> Sql<usize> {
        let (mut removed, mut unreadable) = (0, 0);
        while removed < limit {
            let expired = self.statements.expired(now, limit - removed, unreadable)?;
            if expired.is_empty() {
                break;
            }
            for key in expired {
                // Unreadable items stay: perhaps only their expiry is wrong.
                let Some(key) = key else {
                    unreadable += 1;
                    continue;
                };
                match self.purge_one(key)? {
                    Ok(gone) => removed += gone,
                    Err(_) => unreadable += 1,
                }
            }
        }
        Ok(removed)
    }

    /// Returns how many items were removed, or an error if the item can't be read.
    fn purge_one(&mut self, key: Key) -> Sql<Result<usize, StoreError>> {
        if let Err(unreadable) = self.load(&key)? {
            return Ok(Err(unreadable));
        }
        let gone = match &*key.sort {
            HEAD => self.statements.partition(&key.partition)?,
            _ => vec![key],
        };
        let mut removed = 0;
        for key in gone {
            // It may already be removed with its header.
            if self.load(&key)?.is_ok() && self.slot(&key).is_some() {
                self.delete(&key)?;
                removed += 1;
            }
        }
        Ok(Ok(removed))
    }

    /// Writes the group's changes, as the last statement before COMMIT.
    pub(super) fn write_changes(&mut self) -> Sql<()> {
        let n = self.changes.len();
        if n > 0 {
            self.statements.change(self.last_seq + n as u64, n, &self.packed)?;
        }
        Ok(())
    }

    /// After COMMIT, makes the writes readable from memory. Returns the changes and the number
    /// of the first.
    pub(super) fn publish(&mut self) -> (u64, Vec<TailChange>) {
        let written = self.touched.drain().filter_map(|(key, slot)| Some((key, slot?)));
        self.recent.put_all(written);
        self.packed.clear();
        let changes = std::mem::take(&mut self.changes);
        let first = self.last_seq + 1;
        self.last_seq += changes.len() as u64;
        (first, changes)
    }

    /// After ROLLBACK, discards the group.
    pub(super) fn forget(&mut self) {
        self.touched.clear();
        self.packed.clear();
        self.changes.clear();
    }

    /// Loads an item's state into `touched`.
    fn load(&mut self, key: &Key) -> Sql<Result<(), StoreError>> {
        if self.touched.contains_key(key) {
            return Ok(Ok(()));
        }
        let slot = match self.recent.take(key) {
            Some(slot) => Some(slot),
            None => match self.statements.find(key)? {
                Ok(slot) => slot,
                Err(unreadable) => return Ok(Err(unreadable)),
            },
        };
        self.touched.insert(key.clone(), slot);
        Ok(Ok(()))
    }

    fn slot(&self, key: &Key) -> Option<&CachedItem> {
        self.touched.get(key)?.as_ref()
    }

    fn fits(&self, write: &Write) -> bool {
        let slot = self.slot(write.key());
        match write {
            Write::Put { expect, .. }
            | Write::Delete { expect, .. }
            | Write::Check { expect, .. } => match (expect, slot) {
                (Precondition::Absent, None) => true,
                (Precondition::Version(version), Some(slot)) => slot.item.version == *version,
                _ => false,
            },
            Write::Add { adds, .. } => adds.iter().all(|add| {
                let now = slot.and_then(|s| s.item.counters.get(add.name)).copied().unwrap_or(0);
                add.ceiling.is_none_or(|most| now.saturating_add(add.delta) <= most)
            }),
        }
    }

    /// Decides a failed condition: our own earlier success whose answer was lost, or a
    /// conflict.
    fn refuse(&self, commit: &Commit, failed: &Key) -> CommitResult {
        let ours = |write: &Write| {
            matches!(write, Write::Put { .. } | Write::Add { .. })
                && self.slot(write.key()).is_some_and(|slot| slot.item.write_id == commit.id)
        };
        if commit.writes.iter().any(ours) {
            return Ok(());
        }
        let current = self.slot(failed).map(|slot| Box::new(Item::clone(&slot.item)));
        Err(CommitError::Conflict { key: failed.clone(), current })
    }

    fn create_alone(&mut self, new: &NewItem, write_id: WriteId) -> Sql<CommitResult> {
        let known_absent = match self.touched.get(&new.key) {
            Some(slot) => slot.is_none(),
            None => true,
        };
        if known_absent {
            let item = self.item_of(new, write_id, None);
            if self.insert(item)? {
                return Ok(Ok(()));
            }
        }
        if let Err(unreadable) = self.load(&new.key)? {
            return Ok(Err(unreadable.into()));
        }
        let write = Write::Put { item: new.clone(), expect: Precondition::Absent };
        Ok(self.refuse(&Commit { id: write_id, writes: vec![write] }, &new.key))
    }

    fn item_of(&mut self, new: &NewItem, write_id: WriteId, old: Option<&Item>) -> Item {
        Item {
            key: new.key.clone(),
            version: old.map_or(1, |old| old.version + 1),
            write_id,
            kind: self.kind(&new.kind),
            schema: new.schema,
            body: new.body.clone(),
            list: new.list.clone(),
            list2: new.list2.clone(),
            due: new.due,
            expires: new.expires,
            counters: old.map(|old| old.counters.clone()).unwrap_or_default(),
        }
    }

    /// Shares one allocation per kind between items.
    fn kind(&mut self, kind: &str) -> Arc<str> {
        const MANY: usize = 32;
        if let Some(known) = self.kinds.iter().find(|known| ***known == *kind) {
            return known.clone();
        }
        let made: Arc<str> = kind.into();
        if self.kinds.len() < MANY {
            self.kinds.push(made.clone());
        }
        made
    }

    fn put(&mut self, new: NewItem, write_id: WriteId) -> Sql<()> {
        let Some(CachedItem { id, item: old }) = self.slot(&new.key).cloned() else {
            let item = self.item_of(&new, write_id, None);
            return self.insert(item).map(drop);
        };
        let item = self.item_of(&new, write_id, Some(&old));
        self.statements.update(id, &item, Changed::between(&old, &item))?;
        self.wrote(id, item);
        Ok(())
    }

    fn insert(&mut self, item: Item) -> Sql<bool> {
        let id = self.last_id + 1;
        let made = self.statements.insert(id, &item)?;
        if made {
            self.last_id = id;
            self.wrote(id, item);
        }
        Ok(made)
    }

    fn delete(&mut self, key: &Key) -> Sql<()> {
        let Some(CachedItem { id, item }) = self.slot(key).cloned() else { return Ok(()) };
        self.statements.delete(id)?;
        self.changed(key.clone(), item.version + 1, None);
        self.touched.insert(key.clone(), None);
        Ok(())
    }

    fn add(
        &mut self,
        key: Key,
        kind: &'static str,
        adds: &[CounterAdd],
        expires: Option<Timestamp>,
        write_id: WriteId,
    ) -> Sql<()> {
        if self.slot(&key).is_none() {
            let body = Bytes::new();
            let (list, list2, due) = (None, None, None);
            let new = NewItem {
                key: key.clone(),
                kind: kind.into(),
                schema: 0,
                body,
                list,
                list2,
                due,
                expires,
            };
            let mut item = self.item_of(&new, write_id, None);
            add_up(&mut item, adds);
            let id = self.last_id + 1;
            self.statements.insert(id, &item)?;
            self.statements.count(id, &item)?;
            self.last_id = id;
            self.wrote(id, item);
            return Ok(());
        }
        let Some(CachedItem { id, item: old }) = self.slot(&key).cloned() else { return Ok(()) };
        let mut item = Item::clone(&old);
        item.version += 1;
        item.write_id = write_id;
        item.expires = expires.or(item.expires);
        add_up(&mut item, adds);
        self.statements.count(id, &item)?;
        self.wrote(id, item);
        Ok(())
    }

    fn wrote(&mut self, id: i64, item: Item) {
        let item = Arc::new(item);
        let key = item.key.clone();
        self.changed(key.clone(), item.version, Some(item.clone()));
        self.touched.insert(key, Some(CachedItem { id, item }));
    }

    fn changed(&mut self, key: Key, version: u64, image: Option<Arc<Item>>) {
        pack_change(&mut self.packed, &key, version);
        self.changes.push(TailChange { key, version, image });
    }
}

fn add_up(item: &mut Item, adds: &[CounterAdd]) {
    for add in adds {
        let sum = item.counters.entry(add.name.to_owned()).or_default();
        *sum = sum.saturating_add(add.delta);
    }
}
