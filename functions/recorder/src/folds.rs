//! What is derived from one tenant's ledger, and where it is kept.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use watchbill_core::ledger::{Batch, Entry, LedgerReader, StatsFold};
use watchbill_core::ports::{Expect, Item, Write};
use watchbill_core::repo::{self, Fold, REPUTATION_FOLD, STATS_FOLD, Versioned, decode, encode};
use watchbill_core::service::{Core, TransactError};
use watchbill_domain::TenantId;
use watchbill_governance::{ReputationFold, ReputationRules, StandingChange};

use crate::fault::Fault;

/// The folds are kept after this many batches.
const SAVE_EVERY: u64 = 64;
/// In the kept counts of tasks: up to which batch the ledger was published when they were kept.
const PUBLISHED: &str = "published";

pub struct Folds {
    tenant: TenantId,
    stats: StatsFold,
    reputation: ReputationFold,
    kept_stats: Kept,
    kept_reputation: Kept,
    /// A level has changed since reputation was kept.
    urgent: bool,
}

/// The item of a fold as it was last written.
#[derive(Clone, Copy, Default)]
struct Kept {
    version: Option<u64>,
    /// Up to which batch it goes.
    seq: u64,
    /// What it says of publishing.
    published: u64,
}

impl Folds {
    /// Reads what was kept and brings it up to a batch.
    pub async fn open(
        core: &Core,
        ledger: &LedgerReader,
        tenant: TenantId,
        head: u64,
    ) -> Result<Self, Fault> {
        let (stats, kept_stats) = read(core, &tenant, STATS_FOLD).await?;
        let (reputation, kept_reputation) = read(core, &tenant, REPUTATION_FOLD).await?;
        let mut folds =
            Self { tenant, stats, reputation, kept_stats, kept_reputation, urgent: false };
        let rules = &core.rules().reputation;
        for seq in kept_stats.seq.min(kept_reputation.seq) + 1..=head {
            let Some(batch) = ledger.batch(seq).await? else { continue };
            if seq > kept_stats.seq {
                folds.stats.apply(&batch);
            }
            if seq > kept_reputation.seq {
                folds.reputation.apply(batch.task_entries(), rules);
            }
        }
        Ok(folds)
    }

    /// Up to which batch the ledger was published when the counts were kept.
    pub fn published(&self) -> u64 {
        self.kept_stats.published
    }

    /// Reputation as it would be, for a batch in the making.
    pub fn ahead<'a>(&self, rules: &'a ReputationRules) -> Ahead<'a> {
        let (tenant, fold) = (self.tenant.clone(), self.reputation.clone());
        Ahead { tenant, fold, rules, changed: false }
    }

    /// Takes in a batch that has been appended. `ahead` is what it was made with.
    pub fn appended(&mut self, batch: &Batch, ahead: Ahead<'_>) {
        self.stats.apply(batch);
        self.reputation = ahead.fold;
        self.urgent |= ahead.changed;
    }

    /// Keeps what should be kept by now: all of it now and then, a changed level at once. Whether
    /// the counts say what was published.
    pub async fn save_if_due(
        &mut self,
        core: &Core,
        head: u64,
        published: u64,
    ) -> Result<bool, Fault> {
        if head >= self.kept_stats.seq + SAVE_EVERY || self.kept_stats.version.is_none() {
            return self.save(core, head, published).await;
        }
        if self.urgent {
            let (item, next) = self.reputation_item(head);
            if commit(core, vec![item]).await? {
                (self.kept_reputation, self.urgent) = (next, false);
            }
        }
        Ok(false)
    }

    /// Keeps the counts of tasks, which anyone may ask for, with the batch they go up to. Whether
    /// they say now what was published.
    pub async fn save_stats(
        &mut self,
        core: &Core,
        head: u64,
        published: u64,
    ) -> Result<bool, Fault> {
        if self.kept_stats.seq > head
            || self.kept_stats.seq == head && self.kept_stats.published >= published
        {
            return Ok(self.kept_stats.published >= published);
        }
        let (item, next) = self.stats_item(head, published);
        match try_commit(core, vec![item]).await? {
            Committed::Yes => self.kept_stats = next,
            Committed::No => return Ok(false),
            // Another recorder's, of the same ledger: there is nothing to be put right here.
            Committed::Met(current) => {
                self.kept_stats = current.map(|item| kept_of(&item)).unwrap_or_default();
                return Ok(self.kept_stats.published >= published);
            }
        }
        Ok(true)
    }

    /// Keeps the folds with the batch they go up to. As for the counts alone.
    pub async fn save(&mut self, core: &Core, head: u64, published: u64) -> Result<bool, Fault> {
        let current = |kept: Kept| kept.seq >= head && kept.version.is_some();
        let mut writes = Vec::new();
        let mut stats = None;
        // Read from another recorder, which was further: they would say less than they hold.
        let is_ahead = self.kept_stats.seq > head;
        if !is_ahead && (!current(self.kept_stats) || self.kept_stats.published < published) {
            let (item, next) = self.stats_item(head, published);
            writes.push(item);
            stats = Some(next);
        }
        let mut reputation = None;
        if !current(self.kept_reputation) {
            let (item, next) = self.reputation_item(head);
            writes.push(item);
            reputation = Some(next);
        }
        if !writes.is_empty() {
            if !commit(core, writes).await? {
                return Ok(false);
            }
            self.kept_stats = stats.unwrap_or(self.kept_stats);
            self.kept_reputation = reputation.unwrap_or(self.kept_reputation);
            self.urgent = false;
        }
        Ok(!is_ahead || self.kept_stats.published >= published)
    }

    fn stats_item(&self, head: u64, published: u64) -> (Write, Kept) {
        let mut state = to_json(&self.stats);
        state[PUBLISHED] = published.into();
        let (write, next) = item(&self.tenant, STATS_FOLD, state, self.kept_stats, head);
        (write, Kept { published, ..next })
    }

    fn reputation_item(&self, head: u64) -> (Write, Kept) {
        let state = to_json(&self.reputation);
        item(&self.tenant, REPUTATION_FOLD, state, self.kept_reputation, head)
    }
}

/// Reputation with the entries of a batch that is not appended yet: what comes of a batch
/// stands in that very batch, so that dying in between leaves neither out.
pub struct Ahead<'a> {
    tenant: TenantId,
    fold: ReputationFold,
    rules: &'a ReputationRules,
    changed: bool,
}

impl Ahead<'_> {
    /// The records that an entry brings, to stand right after it. What the entry earns is
    /// lowered to what counts.
    pub fn records(&mut self, entry: &mut Entry) -> Vec<Entry> {
        let Entry::Task(entry) = entry else { return Vec::new() };
        self.fold.limit(entry, self.rules);
        let changes = self.fold.apply_entry(entry, self.rules);
        self.changed |= changes.iter().any(|change| change.before.level != change.after.level);
        let record = |change: &StandingChange| {
            Entry::Record(Box::new(change.record(&self.tenant, self.rules)))
        };
        changes.iter().map(record).collect()
    }
}

/// What can't be read is worked out anew.
async fn read<F: Default + DeserializeOwned>(
    core: &Core,
    tenant: &TenantId,
    name: &str,
) -> Result<(F, Kept), Fault> {
    let item =
        core.context().past_unreadable(core.store().get(&repo::fold_key(tenant, name)).await)?;
    let Some(item) = item.flatten() else { return Ok((F::default(), Kept::default())) };
    let version = Some(item.version);
    let stored: Option<Versioned<Fold>> = core.context().past_unreadable(decode(&item))?;
    let none = Kept { version, ..Kept::default() };
    let Some(stored) = stored else { return Ok((F::default(), none)) };
    let published = stored.value.state.get(PUBLISHED).and_then(Value::as_u64).unwrap_or(0);
    Ok(match serde_json::from_value(stored.value.state) {
        Ok(fold) => (fold, Kept { version, seq: stored.value.seq_applied, published }),
        Err(_) => (F::default(), Kept { published, ..none }),
    })
}

/// What an item says that another recorder kept.
fn kept_of(item: &Item) -> Kept {
    let version = Some(item.version);
    let Ok(stored) = decode::<Fold>(item) else { return Kept { version, ..Kept::default() } };
    let published = stored.value.state.get(PUBLISHED).and_then(Value::as_u64).unwrap_or(0);
    Kept { version, seq: stored.value.seq_applied, published }
}

fn to_json(fold: &impl Serialize) -> Value {
    serde_json::to_value(fold).expect("folds are plain JSON")
}

fn item(tenant: &TenantId, name: &str, state: Value, kept: Kept, seq: u64) -> (Write, Kept) {
    let fold = Fold { tenant: tenant.clone(), name: name.to_owned(), seq_applied: seq, state };
    let expect = kept.version.map_or(Expect::Absent, Expect::Version);
    let next = Kept { version: Some(kept.version.unwrap_or(0) + 1), seq, ..Kept::default() };
    (Write::Put { item: encode(&fold, None), expect }, next)
}

enum Committed {
    Yes,
    /// Not this time, and nothing is lost by it, because the ledger has it all.
    No,
    /// Another recorder has written what stands there now.
    Met(Option<Box<Item>>),
}

async fn commit(core: &Core, writes: Vec<Write>) -> Result<bool, Fault> {
    match try_commit(core, writes).await? {
        Committed::Yes => Ok(true),
        Committed::No => Ok(false),
        Committed::Met(_) => Err(Fault::Contended("another recorder is at work".to_owned())),
    }
}

async fn try_commit(core: &Core, writes: Vec<Write>) -> Result<Committed, Fault> {
    // Tried once, because recording goes on without it.
    match core.context().transact_within(writes, Duration::ZERO).await {
        Ok(Ok(())) => Ok(Committed::Yes),
        Ok(Err(conflict)) => Ok(Committed::Met(conflict.item)),
        Err(TransactError::Busy { .. } | TransactError::Unknown { .. }) => Ok(Committed::No),
        // The store can't replace what it can't read.
        Err(TransactError::Store(error)) if error.unreadable().is_some() => Ok(Committed::No),
        Err(error) => Err(error.into()),
    }
}
