//! Counts of open work, from memory: read at most once a second, whoever asks and how often.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::lock::Mutex;

use super::core::Core;
use super::walk::Walk;
use super::{QueueStats, ServiceError, Stats};
use crate::domain::{TenantId, Timestamp};
use crate::ledger::StatsFold;
use crate::ports::{Item, Key, ListRange, Query, WhichList};
use crate::repo::{self, Fold, Versioned, decode};

/// Tenants that are read at once.
const PAGE: usize = 500;

/// Name of the fold that counts tasks.
pub const STATS_FOLD: &str = "stats";

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
    all: Mutex<Option<Looked<QueueFigures>>>,
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
        let kept = self.store().get(&repo::fold_key(tenant, STATS_FOLD)).await?;
        if let Some((fold, seq)) = kept.as_ref().map(read_fold).transpose()?
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
    /// no ledger is read for them.
    pub async fn queue_figures(&self) -> Result<QueueFigures, ServiceError> {
        let mut all = self.figures().0.all.lock().await;
        let at = self.clock().monotonic();
        if let Some(figures) = Looked::if_young(all.as_ref(), at) {
            return Ok(figures);
        }
        let mut found = QueueFigures { read_at: self.clock().now(), ..QueueFigures::default() };
        let tenants = self.tenants().await?;
        let keys: Vec<Key> =
            tenants.iter().map(|tenant| repo::fold_key(tenant, STATS_FOLD)).collect();
        for item in self.get_readable(&keys).await?.iter().flatten() {
            let stats = read_fold(item)?.0.stats();
            found.queue.pending += stats.queue.pending;
            found.queue.processing += stats.queue.processing;
            found.recorded_until = found.recorded_until.max(stats.as_of);
        }
        *all = Some(Looked { at, found: found.clone() });
        Ok(found)
    }

    /// Every tenant that has recorded anything, in the order of their names. Reads a row for each:
    /// for a start, or where all are summed up; else see [`Self::tenants_after`].
    pub async fn tenants(&self) -> Result<Vec<TenantId>, ServiceError> {
        let mut all: Vec<TenantId> = Vec::new();
        loop {
            let page = self.tenants_after(all.last(), PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
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
                tenants.push(repo::tenant_of(key).ok_or_else(|| ServiceError::Down {
                    reason: format!("{key} stands in the list of tenants and names none"),
                })?);
            }
            if page.next.is_none() || tenants.len() >= limit {
                return Ok(tenants);
            }
            cursor = page.next;
        }
    }
}

/// A kept fold, and the batch it goes up to.
fn read_fold(item: &Item) -> Result<(StatsFold, u64), ServiceError> {
    let fold: Versioned<Fold> = decode(item)?;
    let state = serde_json::from_value(fold.value.state)
        .map_err(|e| ServiceError::Down { reason: format!("{}: {e}", item.key) })?;
    Ok((state, fold.value.seq_applied))
}
