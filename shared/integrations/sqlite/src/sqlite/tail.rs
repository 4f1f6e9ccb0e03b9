//! The end of the change feed in memory, so that a follower who keeps up never asks SQLite.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use watchbill_core::ports::{Change, Item, Key};

use super::recent::weight;

#[derive(Clone)]
pub(super) struct TailChange {
    pub(super) key: Key,
    pub(super) version: u64,
    pub(super) image: Option<Arc<Item>>,
}

impl TailChange {
    fn bytes(&self) -> usize {
        64 + self.image.as_ref().map_or(self.key.partition.len(), |item| weight(item))
    }

    fn change(&self) -> Change {
        let image = self.image.as_deref().cloned();
        Change { key: self.key.clone(), version: self.version, image }
    }
}

/// The newest changes, up to a number of bytes, for all followers. A follower is a position.
pub(super) struct Tail {
    ring: Mutex<RecentChanges>,
    last: watch::Sender<u64>,
    most_bytes: usize,
}

struct RecentChanges {
    groups: VecDeque<Group>,
    bytes: usize,
    /// The number of the oldest change still here, or of the next one.
    first: u64,
}

struct Group {
    first: u64,
    bytes: usize,
    changes: Vec<TailChange>,
}

/// The follower is further behind than the tail reaches.
pub(super) struct FellBehind;

impl Tail {
    pub(super) fn new(last: u64, most_bytes: usize) -> Self {
        let ring = RecentChanges { groups: VecDeque::new(), bytes: 0, first: last + 1 };
        Self { ring: Mutex::new(ring), last: watch::Sender::new(last), most_bytes }
    }

    fn ring(&self) -> MutexGuard<'_, RecentChanges> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the changes of a committed group, numbered from `first`.
    pub(super) fn push(&self, first: u64, changes: Vec<TailChange>) {
        if changes.is_empty() {
            return;
        }
        let last = first + changes.len() as u64 - 1;
        let bytes = changes.iter().map(TailChange::bytes).sum();
        let mut old = Vec::new();
        {
            let mut ring = self.ring();
            ring.bytes += bytes;
            ring.groups.push_back(Group { first, bytes, changes });
            while ring.bytes > self.most_bytes {
                let Some(group) = ring.groups.pop_front() else { break };
                ring.bytes -= group.bytes;
                ring.first = group.first + group.changes.len() as u64;
                old.push(group);
            }
        }
        // Freed outside the lock.
        drop(old);
        self.last.send_replace(last);
    }

    /// Up to `max` changes after `after`; empty at the end.
    pub(super) fn read(&self, after: u64, max: usize) -> Result<Vec<(u64, Change)>, FellBehind> {
        let ring = self.ring();
        if after + 1 < ring.first {
            return Err(FellBehind);
        }
        let start = ring.groups.partition_point(|g| g.first + g.changes.len() as u64 <= after + 1);
        let numbered = |group| {
            let Group { first, changes, .. }: &Group = group;
            (*first..).zip(changes)
        };
        let rows = ring.groups.range(start..).flat_map(numbered);
        let rows = rows.skip_while(|(seq, _)| *seq <= after).take(max);
        Ok(rows.map(|(seq, change)| (seq, change.change())).collect())
    }

    pub(super) fn last(&self) -> u64 {
        *self.last.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}
