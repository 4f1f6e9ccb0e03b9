use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Entry;
use crate::domain::{TenantId, Timestamp, hex};
use crate::ports::{Item, ListEntry, NewItem};
use crate::repo;

/// What a batch may weigh uncompressed: well under the 400 KB of an item, with room for
/// text that does not compress.
pub const MAX_BATCH_BYTES: usize = 280 * 1024;

/// Some lines of the ledger in one item, with the hash of the batch before.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub tenant: TenantId,
    /// From 1, without gaps.
    pub seq: u64,
    pub recorded_at: Timestamp,
    /// Hash of the batch before; empty for the first.
    pub previous: String,
    /// SHA-256, hex, over number, time, `previous` and the lines.
    pub hash: String,
    /// Up to which batch events had certainly gone out when this one was written.
    pub published: u64,
    pub entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    t: TenantId,
    seq: u64,
    at: Timestamp,
    prev: String,
    hash: String,
    #[serde(rename = "pub", default)]
    published: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("ledger batch {seq} can't be read: {reason}")]
    Unreadable { seq: String, reason: String },
    #[error("ledger batch {seq} was changed: its hash is {found}, it should be {expected}")]
    Changed { seq: u64, found: String, expected: String },
}

impl Batch {
    pub fn new(
        tenant: TenantId,
        seq: u64,
        recorded_at: Timestamp,
        previous: String,
        published: u64,
        entries: Vec<Entry>,
    ) -> (Self, NewItem) {
        let lines = lines(&entries);
        let hash = hash(seq, recorded_at, &previous, &lines);
        let batch = Self { tenant, seq, recorded_at, previous, hash, published, entries };
        let item = batch.item(&lines);
        (batch, item)
    }

    fn item(&self, lines: &[u8]) -> NewItem {
        let header = Header {
            t: self.tenant.clone(),
            seq: self.seq,
            at: self.recorded_at,
            prev: self.previous.clone(),
            hash: self.hash.clone(),
            published: self.published,
        };
        let mut body = serde_json::to_vec(&header).expect("a header is plain JSON");
        body.push(b'\n');
        let mut packer = flate2::write::DeflateEncoder::new(body, Compression::fast());
        packer.write_all(lines).expect("writing to memory can't fail");
        let body = packer.finish().expect("writing to memory can't fail");
        NewItem {
            key: repo::ledger_key(&self.tenant, self.seq),
            kind: "ledger".into(),
            schema: 1,
            body: Bytes::from(body),
            list: Some(ListEntry {
                partition: repo::ledger_list(&self.tenant),
                sort: self.recorded_at.sortable().into(),
            }),
            list2: None,
            due: None,
            expires: None,
        }
    }

    /// Reads a batch and checks its own hash.
    pub fn read(item: &Item) -> Result<Self, BatchError> {
        let wrong =
            |reason: String| BatchError::Unreadable { seq: item.key.sort.to_string(), reason };
        let end = item
            .body
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| wrong("it has no header".to_owned()))?;
        let header: Header =
            serde_json::from_slice(&item.body[..end]).map_err(|e| wrong(e.to_string()))?;
        let mut lines = Vec::new();
        flate2::read::DeflateDecoder::new(&item.body[end + 1..])
            .read_to_end(&mut lines)
            .map_err(|e| wrong(e.to_string()))?;
        let expected = hash(header.seq, header.at, &header.prev, &lines);
        if expected != header.hash {
            return Err(BatchError::Changed { seq: header.seq, found: header.hash, expected });
        }
        let entries = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<Vec<Entry>, _>>()
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Self {
            tenant: header.t,
            seq: header.seq,
            recorded_at: header.at,
            previous: header.prev,
            hash: header.hash,
            published: header.published,
            entries,
        })
    }
}

fn lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(entries.len() * 256);
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).expect("entries hold only what JSON can hold");
        lines.push(b'\n');
    }
    lines
}

fn hash(seq: u64, at: Timestamp, previous: &str, lines: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(seq.to_be_bytes());
    hash.update(at.millis().to_be_bytes());
    hash.update(previous.as_bytes());
    hash.update(lines);
    hex(&hash.finalize())
}
