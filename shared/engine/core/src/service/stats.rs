//! Counts of open work, from memory: read at most once a second, however many callers ask.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;
use watchbill_domain::{TenantId, Timestamp};

use super::walk::StoreWalk;
use super::{Context, ServiceError, Tenants};
use crate::ledger::{QueueStats, Stats, StatsFold};
use crate::ports::{Item, Key, StoreError};
use crate::repo::{self, Projection, STATS_FOLD, Versioned, decode};

/// Tenants read at once.
const PAGE_SIZE: usize = 500;

/// Maximum age of the counts.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Tenants with cached counts, at most; beyond that all are dropped.
const MAX_TENANTS: usize = 4_096;

/// Counts of open work. Cheap to clone.
#[derive(Clone)]
pub struct Statistics {
    context: Context,
    tenants: Tenants,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    tenants: std::sync::Mutex<HashMap<TenantId, Arc<Mutex<TenantCounts>>>>,
    all: Mutex<AllTenants>,
}

/// The last read counts of all tenants, some of which are refreshed at each poll: thousands of
/// tenants are not all read every second.
#[derive(Default)]
struct AllTenants {
    counted: BTreeMap<TenantId, (QueueStats, Option<Timestamp>)>,
    /// The tenant after which the next poll continues.
    after: Option<TenantId>,
    /// Every tenant was read once.
    whole: bool,
    found: Option<CachedResult<QueueCounts>>,
}

/// One tenant's counts, as far as its ledger is read.
#[derive(Default)]
struct TenantCounts {
    fold: StatsFold,
    /// The last batch included.
    seq: u64,
    stats: Option<CachedResult<Stats>>,
}

/// A result and its time on the monotonic clock.
struct CachedResult<T> {
    at: Duration,
    found: T,
}

impl<T: Clone> CachedResult<T> {
    fn if_young(this: Option<&Self>, now: Duration) -> Option<T> {
        let young = this.filter(|looked| now.saturating_sub(looked.at) < POLL_INTERVAL);
        young.map(|looked| looked.found.clone())
    }
}

/// Counts over all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    pub queue: QueueStats,
    /// When they were read.
    pub read_at: Timestamp,
    /// The recording time of the newest counted batch, if there is one.
    pub recorded_until: Option<Timestamp>,
    /// Not all tenants have been read since this process started.
    pub partial: bool,
}

impl Counts {
    fn of(&self, tenant: &TenantId) -> Arc<Mutex<TenantCounts>> {
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

    /// Counts of one tenant: the stored projection, and the ledger's batches after it.
    pub async fn of(&self, tenant: &TenantId) -> Result<Stats, ServiceError> {
        let counted = self.counts.of(tenant);
        // A concurrent caller waits for the result of the poll in progress.
        let mut counted = counted.lock().await;
        let at = self.context.clock().monotonic();
        if let Some(stats) = CachedResult::if_young(counted.stats.as_ref(), at) {
            return Ok(stats);
        }
        self.count_on(tenant, &mut counted).await?;
        let found = Stats { read_at: self.context.clock().now(), ..counted.fold.stats() };
        counted.stats = Some(CachedResult { at, found: found.clone() });
        Ok(found)
    }

    async fn count_on(
        &self,
        tenant: &TenantId,
        counted: &mut TenantCounts,
    ) -> Result<(), ServiceError> {
        let kept = self.context.store().get(&repo::fold_key(tenant, STATS_FOLD)).await;
        let kept = self.context.past_unreadable(kept)?.flatten();
        // An unreadable projection is counted again.
        let kept =
            kept.map(|item| self.context.past_unreadable(read_fold(&item))).transpose()?.flatten();
        if let Some((fold, seq)) = kept
            && seq > counted.seq
        {
            (counted.fold, counted.seq) = (fold, seq);
        }
        let (ledger, mut walk) =
            (self.context.ledger(tenant), StoreWalk::new(&**self.context.clock()));
        // If the recorder's projection is far behind, the next poll continues.
        while !walk.is_over()
            && let Some((batch, bytes)) = ledger.weighed(counted.seq + 1).await?
        {
            walk.read(bytes);
            // No await in between: a dropped call leaves a consistent projection.
            counted.fold.apply(&batch);
            counted.seq += 1;
        }
        Ok(())
    }

    /// Counts over all tenants, as the recorder last stored them: anyone may ask for these, so
    /// no ledger is read for them, and at most one page of tenants a second.
    pub async fn queue(&self) -> Result<QueueCounts, ServiceError> {
        let mut all = self.counts.all.lock().await;
        let at = self.context.clock().monotonic();
        if let Some(figures) = CachedResult::if_young(all.found.as_ref(), at) {
            return Ok(figures);
        }
        // The first time as many as one call may read, so that only large installations are
        // counted in part.
        let mut walk = StoreWalk::of_items(&**self.context.clock());
        loop {
            let read = self.count_some(&mut all).await?;
            walk.read_many(read, 0);
            if all.whole || walk.is_over() {
                break;
            }
        }
        let partial = !all.whole;
        let mut found =
            QueueCounts { read_at: self.context.clock().now(), partial, ..QueueCounts::default() };
        for (queue, as_of) in all.counted.values() {
            found.queue.pending += queue.pending;
            found.queue.processing += queue.processing;
            found.recorded_until = found.recorded_until.max(*as_of);
        }
        all.found = Some(CachedResult { at, found: found.clone() });
        Ok(found)
    }

    /// Refreshes a page of tenants. Returns their number.
    async fn count_some(&self, all: &mut AllTenants) -> Result<usize, ServiceError> {
        let tenants = self.tenants.after(all.after.as_ref(), PAGE_SIZE).await?;
        let keys: Vec<Key> =
            tenants.iter().map(|tenant| repo::fold_key(tenant, STATS_FOLD)).collect();
        let items = self.context.get_readable(&keys).await?;
        let read = tenants.len();
        let last = tenants.last().cloned().filter(|_| read == PAGE_SIZE);
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

/// A stored projection, and the batch it goes up to.
fn read_fold(item: &Item) -> Result<(StatsFold, u64), StoreError> {
    let fold: Versioned<Projection> = decode(item)?;
    let state = serde_json::from_value(fold.value.state)
        .map_err(|e| StoreError::Corrupt { key: item.key.clone(), reason: e.to_string() })?;
    Ok((state, fold.value.seq_applied))
}
