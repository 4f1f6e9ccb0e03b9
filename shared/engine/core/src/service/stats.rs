//! Counts of open work, from memory: read at most once a second, whoever asks and how often.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;
use watchbill_domain::{TenantId, Timestamp};

use super::walk::Walk;
use super::{Context, ServiceError, Tenants};
use crate::ledger::{QueueStats, Stats, StatsFold};
use crate::ports::{Item, Key, StoreError};
use crate::repo::{self, Fold, STATS_FOLD, Versioned, decode};

/// Tenants that are read at once.
const PAGE: usize = 500;

/// How old figures may be.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tenants whose figures are kept; beyond, all are forgotten and found again.
const MAX_TENANTS: usize = 4_096;

/// Counts of open work. Cheap to clone.
#[derive(Clone)]
pub struct Statistics {
    context: Context,
    tenants: Tenants,
    counts: Arc<Counts>,
}

/// What this process last read.
#[derive(Default)]
struct Counts {
    tenants: std::sync::Mutex<HashMap<TenantId, Arc<Mutex<Counted>>>>,
    all: Mutex<AllTenants>,
}

/// The counts of all tenants as they were last read, some of them anew at each look: of
/// thousands not all are read each second.
#[derive(Default)]
struct AllTenants {
    counted: BTreeMap<TenantId, (QueueStats, Option<Timestamp>)>,
    /// The tenant after which the next look goes on.
    after: Option<TenantId>,
    /// Every tenant was read once.
    whole: bool,
    found: Option<Looked<QueueFigures>>,
}

/// One tenant's counts, as far as its ledger is read.
#[derive(Default)]
struct Counted {
    fold: StatsFold,
    /// The last batch that is in it.
    seq: u64,
    stats: Option<Looked<Stats>>,
}

/// What was found, and when on the monotonic clock.
struct Looked<T> {
    at: Duration,
    found: T,
}

impl<T: Clone> Looked<T> {
    fn if_young(this: Option<&Self>, now: Duration) -> Option<T> {
        let young = this.filter(|looked| now.saturating_sub(looked.at) < LOOK_EVERY);
        young.map(|looked| looked.found.clone())
    }
}

/// Counts over all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    pub queue: QueueStats,
    /// When they were read.
    pub read_at: Timestamp,
    /// The newest change that is in them; nothing where there is none.
    pub recorded_until: Option<Timestamp>,
    /// Not all tenants have been read since this process started.
    pub partial: bool,
}

impl Counts {
    fn of(&self, tenant: &TenantId) -> Arc<Mutex<Counted>> {
        let mut all = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_TENANTS && !all.contains_key(tenant) {
            all.clear();
        }
        all.entry(tenant.clone()).or_default().clone()
    }
}

impl Statistics {
    pub(super) fn new(context: Context, tenants: Tenants) -> Self {
        Self { context, tenants, counts: Arc::default() }
    }

    /// Counts of one tenant: the kept fold, and what the ledger holds beyond it.
    pub async fn of(&self, tenant: &TenantId) -> Result<Stats, ServiceError> {
        let counted = self.counts.of(tenant);
        // Whoever comes while another looks waits for what it finds.
        let mut counted = counted.lock().await;
        let at = self.context.clock().monotonic();
        if let Some(stats) = Looked::if_young(counted.stats.as_ref(), at) {
            return Ok(stats);
        }
        self.count_on(tenant, &mut counted).await?;
        let found = Stats { read_at: self.context.clock().now(), ..counted.fold.stats() };
        counted.stats = Some(Looked { at, found: found.clone() });
        Ok(found)
    }

    async fn count_on(&self, tenant: &TenantId, counted: &mut Counted) -> Result<(), ServiceError> {
        let kept = self.context.store().get(&repo::fold_key(tenant, STATS_FOLD)).await;
        let kept = self.context.past_unreadable(kept)?.flatten();
        // What can't be read is counted anew.
        let kept =
            kept.map(|item| self.context.past_unreadable(read_fold(&item))).transpose()?.flatten();
        if let Some((fold, seq)) = kept
            && seq > counted.seq
        {
            (counted.fold, counted.seq) = (fold, seq);
        }
        let (ledger, mut walk) = (self.context.ledger(tenant), Walk::new(&**self.context.clock()));
        // Where the recorder has not kept its fold for long, the next look goes on.
        while !walk.is_over()
            && let Some((batch, bytes)) = ledger.weighed(counted.seq + 1).await?
        {
            walk.read(bytes);
            // Both at once: a call that is given up in between leaves a whole fold behind.
            counted.fold.apply(&batch);
            counted.seq += 1;
        }
        Ok(())
    }

    /// Counts over all tenants, as the recorder last kept them: anyone may ask for these, so
    /// no ledger is read for them, and of the tenants so many a second as one page holds.
    pub async fn queue(&self) -> Result<QueueFigures, ServiceError> {
        let mut all = self.counts.all.lock().await;
        let at = self.context.clock().monotonic();
        if let Some(figures) = Looked::if_young(all.found.as_ref(), at) {
            return Ok(figures);
        }
        // At first as many as one call may, so that few installations are ever counted in part.
        let mut walk = Walk::of_items(&**self.context.clock());
        loop {
            let read = self.count_some(&mut all).await?;
            walk.read_many(read, 0);
            if all.whole || walk.is_over() {
                break;
            }
        }
        let partial = !all.whole;
        let mut found = QueueFigures {
            read_at: self.context.clock().now(),
            partial,
            ..QueueFigures::default()
        };
        for (queue, as_of) in all.counted.values() {
            found.queue.pending += queue.pending;
            found.queue.processing += queue.processing;
            found.recorded_until = found.recorded_until.max(*as_of);
        }
        all.found = Some(Looked { at, found: found.clone() });
        Ok(found)
    }

    /// Reads a page of tenants anew. Answers how many.
    async fn count_some(&self, all: &mut AllTenants) -> Result<usize, ServiceError> {
        let tenants = self.tenants.after(all.after.as_ref(), PAGE).await?;
        let keys: Vec<Key> =
            tenants.iter().map(|tenant| repo::fold_key(tenant, STATS_FOLD)).collect();
        let items = self.context.get_readable(&keys).await?;
        let read = tenants.len();
        let last = tenants.last().cloned().filter(|_| read == PAGE);
        for (tenant, item) in tenants.into_iter().zip(&items) {
            let Some(item) = item else { continue };
            if let Some((fold, _)) = self.context.past_unreadable(read_fold(item))? {
                let stats = fold.stats();
                all.counted.insert(tenant, (stats.queue, stats.as_of));
            }
        }
        all.whole |= last.is_none();
        all.after = last;
        Ok(read)
    }
}

/// A kept fold, and the batch it goes up to.
fn read_fold(item: &Item) -> Result<(StatsFold, u64), StoreError> {
    let fold: Versioned<Fold> = decode(item)?;
    let state = serde_json::from_value(fold.value.state)
        .map_err(|e| StoreError::Corrupt { key: item.key.clone(), reason: e.to_string() })?;
    Ok((state, fold.value.seq_applied))
}
