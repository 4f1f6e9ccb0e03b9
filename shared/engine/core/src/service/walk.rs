//! Limits one call's walk through a ledger or a list: batches or items, bytes and time. Beyond
//! them it returns what it has and where to continue.

use std::time::Duration;

use crate::ports::Clock;

/// Batches of one walk, at most.
const MAX_BATCHES: usize = 256;
/// List items of one walk, at most.
const MAX_ITEMS: usize = 2_000;
/// Bytes of one walk, at most: about 0.2 s of unpacking on one core.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Duration of one walk, at most: remote stores answer some hundred reads in it.
const MAX_TIME: Duration = Duration::from_secs(1);

pub(super) struct StoreWalk<'a> {
    clock: &'a dyn Clock,
    ends: Duration,
    most: usize,
    count: usize,
    bytes: usize,
}

impl<'a> StoreWalk<'a> {
    /// A walk through a ledger.
    pub fn new(clock: &'a dyn Clock) -> Self {
        let ends = clock.monotonic() + MAX_TIME;
        Self { clock, ends, most: MAX_BATCHES, count: 0, bytes: 0 }
    }

    /// A walk through a list of the store.
    pub fn of_items(clock: &'a dyn Clock) -> Self {
        Self { most: MAX_ITEMS, ..Self::new(clock) }
    }

    /// Counts a batch whose lines have this many bytes.
    pub fn read(&mut self, bytes: usize) {
        self.read_many(1, bytes);
    }

    pub fn read_many(&mut self, count: usize, bytes: usize) {
        self.count += count;
        self.bytes += bytes;
    }

    /// Never before something was read: every walk makes progress.
    pub fn is_over(&self) -> bool {
        self.count > 0
            && (self.count >= self.most
                || self.bytes >= MAX_BYTES
                || self.clock.monotonic() >= self.ends)
    }
}
