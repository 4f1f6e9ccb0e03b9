use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use watchbill_domain::{TenantId, Timestamp};
use watchbill_governance::{Record, RecordKind};

use super::raw::{digest, each};
use super::{Entry, LedgerReader, RawBatch};
use crate::ports::{Item, Store, StoreError};
use crate::repo::{self, Fold, STATS_FOLD, decode};

/// Hashes that are remembered to be compared with what was sealed: at one batch a second,
/// those of a day.
const REMEMBERED: usize = 100_000;

/// A ledger whose chain holds, up to its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub batches: u64,
    pub entries: u64,
    /// Hash of the newest batch; empty for an empty ledger. Compare it with one that was
    /// kept elsewhere: the chain alone can't show that its end was cut off and written anew.
    pub head: String,
}

/// The first thing in a ledger that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger batch {seq} breaks the chain: {reason}")]
pub struct Broken {
    pub seq: u64,
    /// The entry in it, where it can be told.
    pub entry: Option<BrokenEntry>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenEntry {
    /// Its number in the batch, from 1.
    pub place: usize,
    pub how: Tampering,
    /// Which it is, as it stands there now: `task <id> version 3`, `record <id> (key_created)`.
    pub what: Option<String>,
}

/// What was done to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    Changed,
    Added,
    Missing,
    /// It stands where another one stood.
    Moved,
}

impl fmt::Display for BrokenEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            Tampering::Changed => "was changed",
            Tampering::Added => "was added",
            Tampering::Missing => "is missing",
            Tampering::Moved => "is not the one that stood there",
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
    Broken(#[from] Broken),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What stands at a place of a ledger.
#[derive(Clone, Debug)]
pub enum Found {
    Batch(RawBatch),
    Unreadable(String),
    Missing,
}

impl From<&Item> for Found {
    fn from(item: &Item) -> Self {
        match RawBatch::open(item) {
            Ok(batch) => Found::Batch(batch),
            Err(error) => Found::Unreadable(error.to_string()),
        }
    }
}

/// A walk along a chain: give it what stands at 1, 2, 3 … and it tells the first break.
pub struct Verifier {
    tenant: TenantId,
    verified: Verified,
    latest: Timestamp,
    /// The newest batch follows another than the one before it. Which of the two is at fault,
    /// the next one tells.
    doubt: Option<Broken>,
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

    /// The number of the batch that it is to be given now.
    pub fn next(&self) -> u64 {
        self.verified.batches + 1
    }

    /// The hash of the newest batch that it was given; empty before the first.
    pub fn head(&self) -> &str {
        &self.verified.head
    }

    pub fn push(&mut self, found: Found) -> Result<(), Broken> {
        let seq = self.next();
        let broken = |reason: String| Broken { seq, entry: None, reason };
        let sound = match found {
            Found::Missing => Err(broken("it is missing, though later ones were written".into())),
            Found::Unreadable(reason) => Err(broken(reason)),
            Found::Batch(batch) => self.sound(batch),
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
                return Err(broken(format!("it is the first, but says that it follows '{named}'")));
            }
            let reason = format!(
                "its hash is '{before}', but batch {seq} says that it follows '{named}': one of \
                 the two was written anew"
            );
            self.doubt = Some(Broken { seq: seq - 1, entry: None, reason });
        } else if batch.recorded_at < self.latest {
            let (at, latest) = (batch.recorded_at, self.latest);
            return Err(broken(format!("recorded at {at}, before the batch before it, {latest}")));
        }
        self.compare_with_seals(&batch)?;
        self.latest = batch.recorded_at;
        self.verified.batches = seq;
        self.verified.entries += batch.lines().count() as u64;
        self.remember(&batch.hash);
        self.verified.head = batch.hash;
        Ok(())
    }

    /// What held, once everything was given.
    pub fn finish(self) -> Result<Verified, Broken> {
        match self.doubt {
            Some(doubt) => Err(doubt),
            None => Ok(self.verified),
        }
    }

    /// The batch, if it stands in its place and is by itself what it says.
    fn sound(&self, batch: RawBatch) -> Result<RawBatch, Broken> {
        let seq = self.next();
        let broken = |reason: String| Broken { seq, entry: None, reason };
        if (&batch.tenant, batch.seq) != (&self.tenant, seq) {
            let (of, number) = (&batch.tenant, batch.seq);
            return Err(broken(format!("in its place stands batch {number} of tenant {of}")));
        }
        let expected = batch.expected();
        if expected == batch.hash {
            return Ok(batch);
        }
        if let Some(entry) = first_wrong(&batch) {
            return Err(Broken { seq, reason: entry.to_string(), entry: Some(entry) });
        }
        let found = &batch.hash;
        let what = match batch.holds_without_digests() {
            true => "the digests in its header were changed, its entries were not",
            false => "it was changed",
        };
        Err(broken(format!("{what}: its hash is {found}, it should be {expected}")))
    }

    /// Decides between the newest batch, which follows another than the one before it, and
    /// that one: who is followed by the next in turn is the one that was there.
    fn blame(&self, next: &RawBatch, doubt: Broken) -> Broken {
        let newest = self.verified.batches;
        if next.previous == self.verified.head {
            let reason = format!("it was written anew: {}", doubt.reason);
            return Broken { reason, ..doubt };
        }
        let reason = format!("it follows another batch than the one before it: {}", doubt.reason);
        Broken { seq: newest, entry: None, reason }
    }

    fn remember(&mut self, hash: &str) {
        if self.hashes.len() == REMEMBERED {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash.to_owned());
    }

    fn hash_of(&self, seq: u64) -> Option<&str> {
        let oldest = self.next() - self.hashes.len() as u64;
        let place = usize::try_from(seq.checked_sub(oldest)?).ok()?;
        self.hashes.get(place).map(String::as_str)
    }

    /// Heads that were sealed stand in the ledger as records: who wrote batches anew and
    /// forgot those is found out by them.
    fn compare_with_seals(&self, batch: &RawBatch) -> Result<(), Broken> {
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
                let reason = format!("its hash is '{found}', at {at} '{hash}' was sealed");
                return Err(Broken { seq, entry: None, reason });
            }
        }
        Ok(())
    }
}

fn seal(line: &[u8]) -> Option<Record> {
    const MARK: &[u8] = b"\"kind\":\"sealed\"";
    line.windows(MARK.len()).any(|bytes| bytes == MARK).then_some(())?;
    match serde_json::from_slice(line).ok()? {
        Entry::Record(record) if record.kind == RecordKind::Sealed => Some(*record),
        _ => None,
    }
}

/// The first entry that does not fit its digest; none where no line was touched, or where
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
    // Of one that is missing nothing stands there that could tell which it was.
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
        Ok(Entry::Record(record)) => format!("record {} ({})", record.id, record.kind),
        Err(_) => "it can't be read any more".to_owned(),
    }
}

/// Walks a tenant's ledger from its first batch and checks that each is as it was written,
/// in its place, after the one whose hash it names, and that none is missing that the list
/// of batches or the statistics have seen.
pub async fn verify(store: Arc<dyn Store>, tenant: &TenantId) -> Result<Verified, VerifyError> {
    // Read first: what is appended during the walk is no fault.
    let seen = LedgerReader::new(store.clone(), tenant.clone()).seen().await?;
    let mut verifier = Verifier::new(tenant.clone());
    loop {
        let seq = verifier.next();
        match store.get(&repo::ledger_key(tenant, seq)).await? {
            Some(item) => verifier.push(Found::from(&item))?,
            None if seq <= seen => verifier.push(Found::Missing)?,
            None => return Ok(verifier.finish()?),
        }
    }
}

impl LedgerReader {
    /// The newest batch that anything but the chain knows of.
    pub async fn seen(&self) -> Result<u64, StoreError> {
        let listed = self.listed_head().await?;
        let fold = self.store.get(&repo::fold_key(&self.tenant, STATS_FOLD)).await?;
        let folded = match fold {
            Some(item) => decode::<Fold>(&item)?.value.seq_applied,
            None => 0,
        };
        Ok(listed.max(folded))
    }
}
