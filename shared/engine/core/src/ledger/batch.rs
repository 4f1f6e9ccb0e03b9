//! A batch of ledger entries, read from and written to one store item.

use watchbill_domain::{TaskEntry, TenantId, Timestamp};

use super::Entry;
use super::raw::{RawBatch, digests};
use crate::ports::{Item, NewItem};

/// Maximum uncompressed size of a batch: well below an item's 400 KB, with room for text that
/// does not compress.
pub const MAX_BATCH_BYTES: usize = 280 * 1024;

/// Some lines of the ledger in one item, with the hash of the previous batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub tenant: TenantId,
    /// From 1, without gaps.
    pub seq: u64,
    pub recorded_at: Timestamp,
    /// Hash of the previous batch; empty for the first.
    pub previous: String,
    /// SHA-256, hex: see [`RawBatch::expected`].
    pub hash: String,
    /// The batch up to which all events had been published when this one was written.
    pub published: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("ledger batch {seq} can't be read: {reason}")]
    Unreadable { seq: String, reason: String },
    #[error("ledger batch {seq} was changed: its hash is {found}, it should be {expected}")]
    Changed { seq: u64, found: String, expected: String },
}

impl Batch {
    /// The task changes in it.
    pub fn task_entries(&self) -> impl Iterator<Item = &TaskEntry> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Task(entry) => Some(entry),
            Entry::Published(_) | Entry::AuditRecord(_) => None,
        })
    }

    pub fn new(
        tenant: TenantId,
        seq: u64,
        recorded_at: Timestamp,
        previous: String,
        published: u64,
        entries: Vec<Entry>,
    ) -> (Self, NewItem) {
        let lines = lines(&entries);
        let mut raw = RawBatch {
            tenant,
            seq,
            recorded_at,
            previous,
            hash: String::new(),
            published,
            digests: Some(digests(&lines)),
            lines,
        };
        raw.hash = raw.expected();
        let item = raw.item();
        (raw.with(entries), item)
    }

    /// Reads a batch and checks its own hash.
    pub fn read(item: &Item) -> Result<Self, BatchError> {
        Self::read_weighed(item).map(|(batch, _)| batch)
    }

    /// The same, with the size of its lines in bytes.
    pub fn read_weighed(item: &Item) -> Result<(Self, usize), BatchError> {
        let raw = RawBatch::open(item)?;
        let expected = raw.expected();
        if expected != raw.hash {
            return Err(BatchError::Changed { seq: raw.seq, found: raw.hash, expected });
        }
        let entries = raw.entries().collect::<Result<Vec<Entry>, _>>().map_err(|e| {
            BatchError::Unreadable { seq: item.key.sort.to_string(), reason: e.to_string() }
        })?;
        let bytes = raw.lines.len();
        Ok((raw.with(entries), bytes))
    }
}

fn lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(entries.len() * 256);
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).expect("entries serialize to JSON");
        lines.push(b'\n');
    }
    lines
}
