//! Caches recently written items as committed: created tasks are soon claimed, and claimed ones
//! soon completed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watchbill_core::ports::{Item, Key};

/// An item and its row id.
#[derive(Clone)]
pub(super) struct CachedItem {
    pub(super) id: i64,
    pub(super) item: Arc<Item>,
}

/// A cache in two generations. When the young one holds half of the bytes it becomes the old
/// one, and the previous old one is dropped.
///
/// Only the writer fills it, after a COMMIT, and before a group's COMMIT it takes out what the
/// group touches. So a reader finds the committed item here or must ask SQLite, and never gets
/// anything older than SQLite has shown to anyone.
pub(super) struct ItemCache {
    generations: Mutex<Generations>,
    half: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, CachedItem>,
    old: HashMap<Key, CachedItem>,
    young_bytes: usize,
}

/// Approximate memory of an item, in bytes: its texts, body and fixed parts.
pub(super) fn weight(item: &Item) -> usize {
    const REST: usize = 400;
    let list = |entry: &Option<watchbill_core::ports::ListEntry>| {
        entry.as_ref().map_or(0, |e| e.partition.len() + e.sort.len())
    };
    REST + item.body.len()
        + item.key.partition.len()
        + item.key.sort.len()
        + list(&item.list)
        + list(&item.list2)
        + item.counters.len() * 64
}

impl ItemCache {
    pub(super) fn new(bytes: usize) -> Self {
        Self { generations: Mutex::default(), half: bytes / 2 }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Item>> {
        let generations = self.generations();
        let slot = generations.young.get(key).or_else(|| generations.old.get(key))?;
        Some(slot.item.clone())
    }

    pub(super) fn take(&self, key: &Key) -> Option<CachedItem> {
        let mut generations = self.generations();
        if let Some(slot) = generations.young.remove(key) {
            generations.young_bytes = generations.young_bytes.saturating_sub(weight(&slot.item));
            return Some(slot);
        }
        generations.old.remove(key)
    }

    pub(super) fn put_all(&self, slots: impl Iterator<Item = (Key, CachedItem)>) {
        let mut generations = self.generations();
        for (key, slot) in slots {
            generations.young_bytes += weight(&slot.item);
            generations.young.insert(key, slot);
            if generations.young_bytes > self.half {
                generations.old = std::mem::take(&mut generations.young);
                generations.young_bytes = 0;
            }
        }
    }
}
