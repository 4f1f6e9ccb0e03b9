//! The projections of one tenant's ledger, and where they are stored.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use watchbill_core::ledger::{Batch, Entry, LedgerReader, StatsFold};
use watchbill_core::ports::{Item, Precondition, Write};
use watchbill_core::repo::{
    self, Projection, REPUTATION_FOLD, STATS_FOLD, Versioned, decode, encode,
};
use watchbill_core::service::{Core, TransactError};
use watchbill_domain::TenantId;
use watchbill_governance::{ReputationChange, ReputationProjection, ReputationRules};

use crate::error::RecordError;

/// Projections are saved after this many batches.
const SAVE_INTERVAL: u64 = 64;
/// The field in the saved task counts for the publish position at the time of saving.
const PUBLISHED: &str = "published";

pub struct Projections {
    tenant: TenantId,
    stats: StatsFold,
    reputation: ReputationProjection,
    kept_stats: StoredProjection,
    kept_reputation: StoredProjection,
    /// A trust level has changed since reputation was saved.
    urgent: bool,
}

/// What is known of a projection's stored item.
#[derive(Clone, Copy, Default)]
struct StoredProjection {
    version: Option<u64>,
    /// The last batch that it includes.
    seq: u64,
    /// The publish position that it contains.
    published: u64,
}

impl Projections {
    /// Reads the saved projections and applies the batches up to `head`.
    pub async fn open(
        core: &Core,
        ledger: &LedgerReader,
        tenant: TenantId,
        head: u64,
    ) -> Result<Self, RecordError> {
        let (stats, kept_stats) = read(core, &tenant, STATS_FOLD).await?;
        let (reputation, kept_reputation) = read(core, &tenant, REPUTATION_FOLD).await?;
        let mut projections =
            Self { tenant, stats, reputation, kept_stats, kept_reputation, urgent: false };
        let rules = &core.rules().reputation;
        for seq in kept_stats.seq.min(kept_reputation.seq) + 1..=head {
            let Some(batch) = ledger.batch(seq).await? else { continue };
            if seq > kept_stats.seq {
                projections.stats.apply(&batch);
            }
            if seq > kept_reputation.seq {
                projections.reputation.apply(batch.task_entries(), rules);
            }
        }
        Ok(projections)
    }

    /// The publish position when the counts were saved.
    pub fn published(&self) -> u64 {
        self.kept_stats.published
    }

    /// The pending reputation projection for a batch that is being built.
    pub fn ahead<'a>(&self, rules: &'a ReputationRules) -> PendingProjection<'a> {
        let (tenant, fold) = (self.tenant.clone(), self.reputation.clone());
        PendingProjection { tenant, fold, rules, changed: false }
    }

    /// Applies an appended batch. `ahead` is the projection it was built with.
    pub fn appended(&mut self, batch: &Batch, ahead: PendingProjection<'_>) {
        self.stats.apply(batch);
        self.reputation = ahead.fold;
        self.urgent |= ahead.changed;
    }

    /// Saves what is due: everything after some batches, a changed trust level at once. Returns
    /// whether the saved counts contain the publish position.
    pub async fn save_if_due(
        &mut self,
        core: &Core,
        head: u64,
        published: u64,
    ) -> Result<bool, RecordError> {
        if head >= self.kept_stats.seq + SAVE_INTERVAL || self.kept_stats.version.is_none() {
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

    /// Saves the task counts, which any caller may read, with the last batch they include.
    /// Returns whether the stored item contains the publish position.
    pub async fn save_stats(
        &mut self,
        core: &Core,
        head: u64,
        published: u64,
    ) -> Result<bool, RecordError> {
        if self.kept_stats.seq > head
            || self.kept_stats.seq == head && self.kept_stats.published >= published
        {
            return Ok(self.kept_stats.published >= published);
        }
        let (item, next) = self.stats_item(head, published);
        match try_commit(core, vec![item]).await? {
            IsSaved::Yes => self.kept_stats = next,
            IsSaved::No => return Ok(false),
            // Another recorder of the same ledger wrote it: there is nothing to correct here.
            IsSaved::Met(current) => {
                self.kept_stats = current.map(|item| kept_of(&item)).unwrap_or_default();
                return Ok(self.kept_stats.published >= published);
            }
        }
        Ok(true)
    }

    /// Saves the projections with the last batch they include. Returns the same as `save_stats`.
    pub async fn save(
        &mut self,
        core: &Core,
        head: u64,
        published: u64,
    ) -> Result<bool, RecordError> {
        let current = |kept: StoredProjection| kept.seq >= head && kept.version.is_some();
        let mut writes = Vec::new();
        let mut stats = None;
        // The item was written by another recorder that was further: saving would move it back.
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

    fn stats_item(&self, head: u64, published: u64) -> (Write, StoredProjection) {
        let mut state = to_json(&self.stats);
        state[PUBLISHED] = published.into();
        let (write, next) = item(&self.tenant, STATS_FOLD, state, self.kept_stats, head);
        (write, StoredProjection { published, ..next })
    }

    fn reputation_item(&self, head: u64) -> (Write, StoredProjection) {
        let state = to_json(&self.reputation);
        item(&self.tenant, REPUTATION_FOLD, state, self.kept_reputation, head)
    }
}

/// Reputation including the entries of a batch that is not appended yet. The resulting records
/// go into that same batch, so that a crash can't separate them.
pub struct PendingProjection<'a> {
    tenant: TenantId,
    fold: ReputationProjection,
    rules: &'a ReputationRules,
    changed: bool,
}

impl PendingProjection<'_> {
    /// Returns the records that follow from an entry and are written right after it. Lowers the
    /// entry's score change to what the limits allow.
    pub fn records(&mut self, entry: &mut Entry) -> Vec<Entry> {
        let Entry::Task(entry) = entry else { return Vec::new() };
        self.fold.limit(entry, self.rules);
        let changes = self.fold.apply_entry(entry, self.rules);
        self.changed |= changes.iter().any(|change| change.before.level != change.after.level);
        let record = |change: &ReputationChange| {
            Entry::AuditRecord(Box::new(change.record(&self.tenant, self.rules)))
        };
        changes.iter().map(record).collect()
    }
}

/// Reads a saved projection. An unreadable one is rebuilt.
async fn read<F: Default + DeserializeOwned>(
    core: &Core,
    tenant: &TenantId,
    name: &str,
) -> Result<(F, StoredProjection), RecordError> {
    let item =
        core.context().past_unreadable(core.store().get(&repo::fold_key(tenant, name)).await)?;
    let Some(item) = item.flatten() else { return Ok((F::default(), StoredProjection::default())) };
    let version = Some(item.version);
    let stored: Option<Versioned<Projection>> = core.context().past_unreadable(decode(&item))?;
    let none = StoredProjection { version, ..StoredProjection::default() };
    let Some(stored) = stored else { return Ok((F::default(), none)) };
    let published = stored.value.state.get(PUBLISHED).and_then(Value::as_u64).unwrap_or(0);
    Ok(match serde_json::from_value(stored.value.state) {
        Ok(fold) => (fold, StoredProjection { version, seq: stored.value.seq_applied, published }),
        Err(_) => (F::default(), StoredProjection { published, ..none }),
    })
}

/// Reads the metadata of an item that another recorder saved.
fn kept_of(item: &Item) -> StoredProjection {
    let version = Some(item.version);
    let Ok(stored) = decode::<Projection>(item) else {
        return StoredProjection { version, ..StoredProjection::default() };
    };
    let published = stored.value.state.get(PUBLISHED).and_then(Value::as_u64).unwrap_or(0);
    StoredProjection { version, seq: stored.value.seq_applied, published }
}

fn to_json(fold: &impl Serialize) -> Value {
    serde_json::to_value(fold).expect("projections are plain JSON")
}

fn item(
    tenant: &TenantId,
    name: &str,
    state: Value,
    kept: StoredProjection,
    seq: u64,
) -> (Write, StoredProjection) {
    let fold =
        Projection { tenant: tenant.clone(), name: name.to_owned(), seq_applied: seq, state };
    let expect = kept.version.map_or(Precondition::Absent, Precondition::Version);
    let next = StoredProjection {
        version: Some(kept.version.unwrap_or(0) + 1),
        seq,
        ..StoredProjection::default()
    };
    (Write::Put { item: encode(&fold, None), expect }, next)
}

enum IsSaved {
    Yes,
    /// Not saved this time; nothing is lost, because the ledger has it all.
    No,
    /// Another recorder wrote the current item.
    Met(Option<Box<Item>>),
}

async fn commit(core: &Core, writes: Vec<Write>) -> Result<bool, RecordError> {
    match try_commit(core, writes).await? {
        IsSaved::Yes => Ok(true),
        IsSaved::No => Ok(false),
        IsSaved::Met(_) => {
            Err(RecordError::Contended("another recorder saved the projections".to_owned()))
        }
    }
}

async fn try_commit(core: &Core, writes: Vec<Write>) -> Result<IsSaved, RecordError> {
    // Tried once, because recording continues without it.
    match core.context().transact_within(writes, Duration::ZERO).await {
        Ok(Ok(())) => Ok(IsSaved::Yes),
        Ok(Err(conflict)) => Ok(IsSaved::Met(conflict.item)),
        Err(TransactError::Busy { .. } | TransactError::Unknown { .. }) => Ok(IsSaved::No),
        // The store can't replace an item that it can't read.
        Err(TransactError::Store(error)) if error.unreadable().is_some() => Ok(IsSaved::No),
        Err(error) => Err(error.into()),
    }
}
