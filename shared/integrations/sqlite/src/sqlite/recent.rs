//! The items that were written last, as committed: what is created is soon claimed, and
//! what is claimed is soon completed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watchbill_core::ports::{Item, Key};

/// An item and the row it stands in.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) id: i64,
    pub(super) item: Arc<Item>,
}

/// A cache in two generations: when the young one holds half of the bytes it becomes the
/// old one, and what was old is forgotten.
///
/// Only the writer fills it, after a COMMIT, and it takes out what a group touches before
/// that group's COMMIT: so a reader finds either the committed item here or must ask
/// SQLite, and never something older than what SQLite has shown to anyone.
pub(super) struct Recent {
    generations: Mutex<Generations>,
    half: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Slot>,
    old: HashMap<Key, Slot>,
    young_bytes: usize,
}

/// Bytes of memory that an item takes, about: its texts and body, and the rest of it.
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

impl Recent {
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

    pub(super) fn take(&self, key: &Key) -> Option<Slot> {
        let mut generations = self.generations();
        if let Some(slot) = generations.young.remove(key) {
            generations.young_bytes = generations.young_bytes.saturating_sub(weight(&slot.item));
            return Some(slot);
        }
        generations.old.remove(key)
    }

    pub(super) fn put_all(&self, slots: impl Iterator<Item = (Key, Slot)>) {
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
