//! Counts of open work, from memory: read at most once a second, whoever asks and how often.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;

use super::ServiceError;
use super::core::Core;
use super::walk::Walk;
use crate::ledger::{QueueStats, Stats, StatsFold};
use crate::ports::{Item, Key, ListRange, Query, StoreError, WhichList};
use crate::repo::{self, Fold, STATS_FOLD, Versioned, decode};
use watchbill_domain::{TenantId, Timestamp};

/// Tenants that are read at once.
const PAGE: usize = 500;

/// How old figures may be.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tenants whose figures are kept; beyond, all are forgotten and found again.
const MAX_TENANTS: usize = 4_096;

/// What this process last read. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Figures(Arc<Inner>);

#[derive(Default)]
struct Inner {
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

impl Figures {
    fn of(&self, tenant: &TenantId) -> Arc<Mutex<Counted>> {
        let mut all = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_TENANTS && !all.contains_key(tenant) {
            all.clear();
        }
        all.entry(tenant.clone()).or_default().clone()
    }
}

impl Core {
    /// Counts of one tenant: the kept fold, and what the ledger holds beyond it.
    pub async fn stats(&self, tenant: &TenantId) -> Result<Stats, ServiceError> {
        let counted = self.figures().of(tenant);
        // Whoever comes while another looks waits for what it finds.
        let mut counted = counted.lock().await;
        let at = self.clock().monotonic();
        if let Some(stats) = Looked::if_young(counted.stats.as_ref(), at) {
            return Ok(stats);
        }
        self.count_on(tenant, &mut counted).await?;
        let found = Stats { read_at: self.clock().now(), ..counted.fold.stats() };
        counted.stats = Some(Looked { at, found: found.clone() });
        Ok(found)
    }

    async fn count_on(&self, tenant: &TenantId, counted: &mut Counted) -> Result<(), ServiceError> {
        let kept = self.store().get(&repo::fold_key(tenant, STATS_FOLD)).await;
        let kept = self.past_unreadable(kept)?.flatten();
        // What can't be read is counted anew.
        let kept = kept.map(|item| self.past_unreadable(read_fold(&item))).transpose()?.flatten();
        if let Some((fold, seq)) = kept
            && seq > counted.seq
        {
            (counted.fold, counted.seq) = (fold, seq);
        }
        let (ledger, mut walk) = (self.ledger(tenant), Walk::new(&**self.clock()));
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
    pub async fn queue_figures(&self) -> Result<QueueFigures, ServiceError> {
        let mut all = self.figures().0.all.lock().await;
        let at = self.clock().monotonic();
        if let Some(figures) = Looked::if_young(all.found.as_ref(), at) {
            return Ok(figures);
        }
        // At first as many as one call may, so that few installations are ever counted in part.
        let mut walk = Walk::of_items(&**self.clock());
        loop {
            let read = self.count_some(&mut all).await?;
            walk.read_many(read, 0);
            if all.whole || walk.is_over() {
                break;
            }
        }
        let partial = !all.whole;
        let mut found =
            QueueFigures { read_at: self.clock().now(), partial, ..QueueFigures::default() };
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
        let tenants = self.tenants_after(all.after.as_ref(), PAGE).await?;
        let keys: Vec<Key> =
            tenants.iter().map(|tenant| repo::fold_key(tenant, STATS_FOLD)).collect();
        let items = self.get_readable(&keys).await?;
        let read = tenants.len();
        let last = tenants.last().cloned().filter(|_| read == PAGE);
        for (tenant, item) in tenants.into_iter().zip(&items) {
            let Some(item) = item else { continue };
            if let Some((fold, _)) = self.past_unreadable(read_fold(item))? {
                let stats = fold.stats();
                all.counted.insert(tenant, (stats.queue, stats.as_of));
            }
        }
        all.whole |= last.is_none();
        all.after = last;
        Ok(read)
    }

    /// So many of the tenants that come after one, in the order of their names.
    pub async fn tenants_after(
        &self,
        after: Option<&TenantId>,
        limit: usize,
    ) -> Result<Vec<TenantId>, ServiceError> {
        // The next text after a name is the name with the least character behind it.
        let from = after.map(|tenant| format!("{tenant}\0").into());
        let mut tenants = Vec::new();
        let mut cursor = None;
        loop {
            let query = Query {
                list: WhichList::First,
                partition: repo::TENANTS.into(),
                range: ListRange { from: Clone::clone(&from), to: None },
                descending: false,
                limit: limit - tenants.len(),
                cursor,
            };
            let page = self.store().query(query).await?;
            for key in &page.entries {
                match repo::tenant_of(key) {
                    Some(tenant) => tenants.push(tenant),
                    None => tracing::error!(%key, "{key} stands in the list of tenants: left out"),
                }
            }
            if page.next.is_none() || tenants.len() >= limit {
                return Ok(tenants);
            }
            cursor = page.next;
        }
    }
}

/// A kept fold, and the batch it goes up to.
fn read_fold(item: &Item) -> Result<(StatsFold, u64), StoreError> {
    let fold: Versioned<Fold> = decode(item)?;
    let state = serde_json::from_value(fold.value.state)
        .map_err(|e| StoreError::Corrupt { key: item.key.clone(), reason: e.to_string() })?;
    Ok((state, fold.value.seq_applied))
}
