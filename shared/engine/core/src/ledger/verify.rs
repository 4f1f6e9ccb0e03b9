//! Verifies a ledger's hash chain and finds the first break.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use watchbill_domain::{TenantId, Timestamp};
use watchbill_governance::{AuditRecord, RecordKind};

use super::raw::{digest, each};
use super::{Entry, LedgerReader, RawBatch};
use crate::ports::{Item, Store, StoreError};
use crate::repo::{self, Projection, STATS_FOLD, decode};

/// Number of hashes remembered for comparison with seals: one day's worth at one batch per second.
const CACHE_SIZE: usize = 100_000;

/// A ledger whose chain is intact up to its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub batches: u64,
    pub entries: u64,
    /// Hash of the newest batch; empty for an empty ledger. Compare it with one stored
    /// elsewhere: the chain alone cannot show that its end was rewritten.
    pub head: String,
}

/// The first break in a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger batch {seq} breaks the chain: {reason}")]
pub struct LedgerBreak {
    pub seq: u64,
    /// The entry in the batch, where it can be identified.
    pub entry: Option<BrokenEntry>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenEntry {
    /// Its number in the batch, from 1.
    pub place: usize,
    pub how: Tampering,
    /// The entry as it is stored now: `task <id> version 3`, `record <id> (key_created)`.
    pub what: Option<String>,
}

/// How an entry was tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    Changed,
    Added,
    Missing,
    /// It is in another entry's position.
    Moved,
}

impl fmt::Display for BrokenEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            Tampering::Changed => "was changed",
            Tampering::Added => "was added",
            Tampering::Missing => "is missing",
            Tampering::Moved => "was moved",
        };
        write!(f, "entry {} {how}", self.place)?;
        match &self.what {
            Some(what) => write!(f, ": {what}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Broken(#[from] LedgerBreak),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is stored at a position of a ledger.
#[derive(Clone, Debug)]
pub enum PositionContent {
    Batch(RawBatch),
    Unreadable(String),
    Missing,
}

impl From<&Item> for PositionContent {
    fn from(item: &Item) -> Self {
        match RawBatch::open(item) {
            Ok(batch) => PositionContent::Batch(batch),
            Err(error) => PositionContent::Unreadable(error.to_string()),
        }
    }
}

/// Walks along a chain: it is given what is stored at 1, 2, 3 … and reports the first break.
pub struct Verifier {
    tenant: TenantId,
    verified: Verified,
    latest: Timestamp,
    /// The newest batch names another predecessor than the batch before it. The next batch
    /// shows which of the two is wrong.
    doubt: Option<LedgerBreak>,
    hashes: VecDeque<String>,
}

impl Verifier {
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            verified: Verified::default(),
            latest: Timestamp::default(),
            doubt: None,
            hashes: VecDeque::new(),
        }
    }

    /// The number of the batch that it expects next.
    pub fn next(&self) -> u64 {
        self.verified.batches + 1
    }

    /// The hash of the newest batch it was given; empty before the first.
    pub fn head(&self) -> &str {
        &self.verified.head
    }

    pub fn push(&mut self, found: PositionContent) -> Result<(), LedgerBreak> {
        let seq = self.next();
        let broken = |reason: String| LedgerBreak { seq, entry: None, reason };
        let sound = match found {
            PositionContent::Missing => {
                Err(broken("it is missing, but later batches exist".into()))
            }
            PositionContent::Unreadable(reason) => Err(broken(reason)),
            PositionContent::Batch(batch) => self.sound(batch),
        };
        let batch = match (sound, self.doubt.take()) {
            (Ok(batch), Some(doubt)) => return Err(self.blame(&batch, doubt)),
            (Err(_), Some(doubt)) => return Err(doubt),
            (Err(broken), None) => return Err(broken),
            (Ok(batch), None) => batch,
        };
        if batch.previous != self.verified.head {
            let (named, before) = (&batch.previous, &self.verified.head);
            if seq == 1 {
                return Err(broken(format!(
                    "it is the first batch, but names '{named}' as its predecessor"
                )));
            }
            let reason = format!(
                "its hash is '{before}', but batch {seq} names '{named}' as its predecessor: one \
                 of the two was rewritten"
            );
            self.doubt = Some(LedgerBreak { seq: seq - 1, entry: None, reason });
        } else if batch.recorded_at < self.latest {
            let (at, latest) = (batch.recorded_at, self.latest);
            return Err(broken(format!(
                "recorded at {at}, earlier than the previous batch at {latest}"
            )));
        }
        self.compare_with_seals(&batch)?;
        self.latest = batch.recorded_at;
        self.verified.batches = seq;
        self.verified.entries += batch.lines().count() as u64;
        self.remember(&batch.hash);
        self.verified.head = batch.hash;
        Ok(())
    }

    /// The result, once every batch was given.
    pub fn finish(self) -> Result<Verified, LedgerBreak> {
        match self.doubt {
            Some(doubt) => Err(doubt),
            None => Ok(self.verified),
        }
    }

    /// The batch, if it is in its place and its own hash is correct.
    fn sound(&self, batch: RawBatch) -> Result<RawBatch, LedgerBreak> {
        let seq = self.next();
        let broken = |reason: String| LedgerBreak { seq, entry: None, reason };
        if (&batch.tenant, batch.seq) != (&self.tenant, seq) {
            let (of, number) = (&batch.tenant, batch.seq);
            return Err(broken(format!("its position holds batch {number} of tenant {of}")));
        }
        let expected = batch.expected();
        if expected == batch.hash {
            return Ok(batch);
        }
        if let Some(entry) = first_wrong(&batch) {
            return Err(LedgerBreak { seq, reason: entry.to_string(), entry: Some(entry) });
        }
        let found = &batch.hash;
        let what = match batch.holds_without_digests() {
            true => "the digests in its header were changed, its entries were not",
            false => "it was changed",
        };
        Err(broken(format!("{what}: its hash is {found}, it should be {expected}")))
    }

    /// Decides which is wrong: the newest batch, which names another predecessor, or the one
    /// before it. If the following batch names the newest one, the one before it was rewritten.
    fn blame(&self, next: &RawBatch, doubt: LedgerBreak) -> LedgerBreak {
        let newest = self.verified.batches;
        if next.previous == self.verified.head {
            let reason = format!("it was rewritten: {}", doubt.reason);
            return LedgerBreak { reason, ..doubt };
        }
        let reason = format!("it does not follow the previous batch: {}", doubt.reason);
        LedgerBreak { seq: newest, entry: None, reason }
    }

    fn remember(&mut self, hash: &str) {
        if self.hashes.len() == CACHE_SIZE {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash.to_owned());
    }

    fn hash_of(&self, seq: u64) -> Option<&str> {
        let oldest = self.next() - self.hashes.len() as u64;
        let place = usize::try_from(seq.checked_sub(oldest)?).ok()?;
        self.hashes.get(place).map(String::as_str)
    }

    /// Sealed heads are recorded in the ledger: they expose rewritten batches whose seals were
    /// not rewritten too.
    fn compare_with_seals(&self, batch: &RawBatch) -> Result<(), LedgerBreak> {
        for record in batch.lines().filter_map(seal) {
            let (seq, hash) = (record.details.get("seq"), record.details.get("hash"));
            let Some((seq, hash)) = seq.and_then(|v| v.as_u64()).zip(hash.and_then(|v| v.as_str()))
            else {
                continue;
            };
            if let Some(found) = self.hash_of(seq)
                && found != hash
            {
                let at = record.at;
                let reason = format!("its hash is '{found}', but '{hash}' was sealed at {at}");
                return Err(LedgerBreak { seq, entry: None, reason });
            }
        }
        Ok(())
    }
}

fn seal(line: &[u8]) -> Option<AuditRecord> {
    const MARK: &[u8] = b"\"kind\":\"sealed\"";
    line.windows(MARK.len()).any(|bytes| bytes == MARK).then_some(())?;
    match serde_json::from_slice(line).ok()? {
        Entry::AuditRecord(record) if record.kind == RecordKind::Sealed => Some(*record),
        _ => None,
    }
}

/// The first entry that does not match its digest; `None` where no line was changed, or where
/// there are no digests.
fn first_wrong(batch: &RawBatch) -> Option<BrokenEntry> {
    if batch.holds_without_digests() {
        return None;
    }
    let written = each(batch.digests.as_deref()?);
    let lines: Vec<&[u8]> = batch.lines().collect();
    let found: Vec<String> = lines.iter().map(|line| digest(line)).collect();
    let same = |(a, b): (&String, &&str)| a == *b;
    let place = found.iter().zip(&written).take_while(|pair| same(*pair)).count();
    let how = match (found.get(place), written.get(place)) {
        (None, None) => return None,
        (None, Some(_)) => Tampering::Missing,
        (Some(_), None) => Tampering::Added,
        (Some(here), Some(there)) => {
            let known = written[place..].contains(&here.as_str());
            let comes = found[place..].iter().any(|digest| digest == there);
            match (known, comes) {
                (true, true) => Tampering::Moved,
                (true, false) => Tampering::Missing,
                (false, true) => Tampering::Added,
                (false, false) => Tampering::Changed,
            }
        }
    };
    // A missing entry has no line left that could identify it.
    let line = lines.get(place).filter(|_| how != Tampering::Missing);
    let what = line.map(|line| describe(line));
    Some(BrokenEntry { place: place + 1, how, what })
}

fn describe(line: &[u8]) -> String {
    match serde_json::from_slice(line) {
        Ok(Entry::Task(entry)) => {
            format!("task {} version {}", entry.task, entry.change.version)
        }
        Ok(Entry::Published(event)) => format!("event {}", event.event_id),
        Ok(Entry::AuditRecord(record)) => format!("record {} ({})", record.id, record.kind),
        Err(_) => "it can no longer be read".to_owned(),
    }
}

/// Checks a tenant's whole ledger: each batch is unchanged, in its place and after the one whose
/// hash it names, and none is missing that the list of batches or the statistics refer to.
pub async fn verify(store: Arc<dyn Store>, tenant: &TenantId) -> Result<Verified, VerifyError> {
    // Read first: batches appended during the walk are not missing.
    let seen = LedgerReader::new(store.clone(), tenant.clone()).seen().await?;
    let mut verifier = Verifier::new(tenant.clone());
    loop {
        let seq = verifier.next();
        match store.get(&repo::ledger_key(tenant, seq)).await? {
            Some(item) => verifier.push(PositionContent::from(&item))?,
            None if seq <= seen => verifier.push(PositionContent::Missing)?,
            None => return Ok(verifier.finish()?),
        }
    }
}

impl LedgerReader {
    /// The newest batch that the list or the statistics refer to.
    pub async fn seen(&self) -> Result<u64, StoreError> {
        let listed = self.listed_head().await?;
        let fold = self.store.get(&repo::fold_key(&self.tenant, STATS_FOLD)).await?;
        let folded = match fold {
            Some(item) => decode::<Projection>(&item)?.value.seq_applied,
            None => 0,
        };
        Ok(listed.max(folded))
    }
}
