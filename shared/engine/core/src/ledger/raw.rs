//! A batch as the store holds it, and the hashes that prove it.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use watchbill_domain::{TenantId, Timestamp, hex};

use super::{Batch, BatchError, Entry};
use crate::ports::{Item, ListEntry, NewItem};
use crate::repo;

/// Characters of one line's digest: four bytes in hex. The digest identifies the line that was
/// changed; that a line was changed is proved by the batch's hash.
const DIGEST: usize = 8;

/// A batch as it is stored: nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBatch {
    pub tenant: TenantId,
    pub seq: u64,
    pub recorded_at: Timestamp,
    /// Hash of the previous batch; empty for the first.
    pub previous: String,
    /// The hash that the batch claims to have.
    pub hash: String,
    /// See [`Batch::published`]; it is not part of the history, so no hash covers it.
    pub published: u64,
    /// Eight hex characters for each line, in order. Batches in the first format have none.
    pub digests: Option<String>,
    /// JSON, one entry per line, each ended by a line feed: the hashed content.
    pub lines: Vec<u8>,
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
    #[serde(rename = "dig", default, skip_serializing_if = "Option::is_none")]
    digests: Option<String>,
}

impl RawBatch {
    pub fn open(item: &Item) -> Result<Self, BatchError> {
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
        Ok(Self {
            tenant: header.t,
            seq: header.seq,
            recorded_at: header.at,
            previous: header.prev,
            hash: header.hash,
            published: header.published,
            digests: header.digests,
            lines,
        })
    }

    /// The recording time from its header; `None` where the header is unreadable.
    pub fn recorded_at(item: &Item) -> Option<Timestamp> {
        let end = item.body.iter().position(|byte| *byte == b'\n')?;
        let header: Header = serde_json::from_slice(&item.body[..end]).ok()?;
        Some(header.at)
    }

    /// The hash it should have. SHA-256, hex, over: tenant, 0, digests, 0 (these four are left
    /// out of batches without digests); number and milliseconds, eight bytes each, big endian;
    /// the previous hash, in hex; the lines.
    pub fn expected(&self) -> String {
        self.hashed(self.digests.as_deref())
    }

    fn hashed(&self, digests: Option<&str>) -> String {
        let mut hash = Sha256::new();
        if let Some(digests) = digests {
            hash.update(self.tenant.as_str().as_bytes());
            hash.update([0]);
            hash.update(digests.as_bytes());
            hash.update([0]);
        }
        hash.update(self.seq.to_be_bytes());
        hash.update(self.recorded_at.millis().to_be_bytes());
        hash.update(self.previous.as_bytes());
        hash.update(&self.lines);
        hex(&hash.finalize())
    }

    /// Whether only its digests are wrong, so that no line was changed.
    pub(super) fn holds_without_digests(&self) -> bool {
        self.digests.is_some() && self.hashed(Some(&digests(&self.lines))) == self.hash
    }

    /// The lines, without their line feeds.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        split(&self.lines)
    }

    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, serde_json::Error>> {
        self.lines().map(serde_json::from_slice)
    }

    pub(super) fn with(self, entries: Vec<Entry>) -> Batch {
        let Self { tenant, seq, recorded_at, previous, hash, published, .. } = self;
        Batch { tenant, seq, recorded_at, previous, hash, published, entries }
    }

    pub(super) fn item(&self) -> NewItem {
        let header = Header {
            t: self.tenant.clone(),
            seq: self.seq,
            at: self.recorded_at,
            prev: self.previous.clone(),
            hash: self.hash.clone(),
            published: self.published,
            digests: self.digests.clone(),
        };
        let mut body = serde_json::to_vec(&header).expect("a header serializes to JSON");
        body.push(b'\n');
        let mut packer = flate2::write::DeflateEncoder::new(body, Compression::fast());
        packer.write_all(&self.lines).expect("writing to memory can't fail");
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
}

fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

pub(super) fn digest(line: &[u8]) -> String {
    hex(&Sha256::digest(line)[..DIGEST / 2])
}

pub(super) fn digests(lines: &[u8]) -> String {
    split(lines).map(digest).collect()
}

/// Splits the concatenated digests; a truncated last one counts as one.
pub(super) fn each(digests: &str) -> Vec<&str> {
    let bytes = digests.as_bytes().chunks(DIGEST);
    bytes.map(|digest| std::str::from_utf8(digest).unwrap_or("")).collect()
}
