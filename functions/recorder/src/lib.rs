//! Appends changes to the ledger, then sends their events out, wakes followers and folds
//! what is derived.
//!
//! A change may come twice, also a day later: what is recorded already is found in the
//! ledger's suffix since the change's own time. Dying between appending and publishing is
//! made good by the next run, which publishes again under the same event ids.
//!
//! - `recorded`: a change that the ledger is to hold. `recent`: what it holds already.
//! - `tenant`: appends and publishes, for one tenant. `folds`: what is derived from its ledger.
//!
//! How to add a fold: its state and its kept item in `folds`, with what it brings in `Ahead`.

mod folds;
mod recent;
mod recorded;
mod tenant;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Mutex;
use watchbill_core::domain::{PublishedEvent, Task, TenantId};
use watchbill_core::govern::Record;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, Change, Item, Key, StoreError};
use watchbill_core::repo::{Entity as _, LedgerPeek, decode};
use watchbill_core::service::Core;

use recorded::Recorded;
use tenant::TenantRecorder;

pub struct Recorder {
    core: Core,
    bus: Arc<dyn Bus>,
    tenants: Mutex<BTreeMap<TenantId, TenantRecorder>>,
}

impl Recorder {
    pub fn new(core: Core, bus: Arc<dyn Bus>) -> Self {
        Self { core, bus, tenants: Mutex::default() }
    }

    /// Records a batch of changes. An error means: the whole batch again, later.
    pub async fn record(&self, changes: &[Change]) -> Result<(), HandlerError> {
        let mut by_tenant: BTreeMap<TenantId, Vec<Recorded>> = BTreeMap::new();
        for change in newest(changes) {
            if let Some((tenant, change)) = recordable(&change)? {
                by_tenant.entry(tenant).or_default().push(change);
            }
        }
        let mut tenants = self.tenants.lock().await;
        for (tenant, changes) in by_tenant {
            if !tenants.contains_key(&tenant) {
                let opened = TenantRecorder::open(&self.core, &self.bus, tenant.clone()).await?;
                tenants.insert(tenant.clone(), opened);
            }
            let recorder = tenants.get_mut(&tenant).expect("it was put there just now");
            if let Err(error) = recorder.record(&self.core, &self.bus, changes).await {
                // What it remembers may no longer be what is stored: read anew next time.
                tenants.remove(&tenant);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Publishes what an earlier process appended and may not have sent out, for every
    /// tenant that has a ledger.
    pub async fn catch_up(&self) -> Result<(), HandlerError> {
        let mut tenants = self.tenants.lock().await;
        for tenant in self.core.tenants().await? {
            if let Entry::Vacant(unknown) = tenants.entry(tenant) {
                let tenant = unknown.key().clone();
                unknown.insert(TenantRecorder::open(&self.core, &self.bus, tenant).await?);
            }
        }
        Ok(())
    }

    /// Keeps the folds as they are now: nothing is lost without it, the next start is faster.
    pub async fn save(&self) -> Result<(), HandlerError> {
        for recorder in self.tenants.lock().await.values_mut() {
            recorder.save(&self.core).await?;
        }
        Ok(())
    }
}

/// The change, if the ledger is to hold it. What can't be read is logged and left out: the
/// shard must go on, and the item itself is not touched. What a newer build wrote waits for
/// that build, because a change left out here is missing from the ledger for ever.
fn recordable(change: &Changed<'_>) -> Result<Option<(TenantId, Recorded)>, HandlerError> {
    let (item, first) = (change.item, change.first);
    let key = item.key.partition.clone();
    let read = match &*item.kind {
        Task::KIND => {
            LedgerPeek::of(item).map(|task| (task.tenant.clone(), Recorded::task(key, first, task)))
        }
        PublishedEvent::KIND => decode::<PublishedEvent>(item)
            .map(|stored| (stored.value.tenant, Recorded::event(key, first, stored.value.event))),
        Record::KIND => decode::<Record>(item).map(|stored| {
            (stored.value.tenant.clone(), Recorded::record(key, first, stored.value))
        }),
        _ => return Ok(None),
    };
    match read {
        Ok(recorded) => Ok(Some(recorded)),
        Err(error @ StoreError::Newer { .. }) => Err(error.into()),
        Err(error) => {
            tracing::error!(key = %item.key, "change of {} can't be recorded: {error}", item.key);
            Ok(None)
        }
    }
}

/// Changes of one item, as far as they stand in one batch.
struct Changed<'a> {
    item: &'a Item,
    /// Version of the first of them: all before it had their own turn.
    first: u64,
}

/// One for each item, in the order of their last changes: the newest image holds the log of
/// them all, so that only that one is read.
fn newest(changes: &[Change]) -> Vec<Changed<'_>> {
    let mut spans: HashMap<&Key, (u64, usize)> = HashMap::with_capacity(changes.len());
    for (place, change) in changes.iter().enumerate() {
        let span = spans.entry(&change.key).or_insert((change.version, place));
        *span = (span.0.min(change.version), place);
    }
    let newest = changes.iter().enumerate().filter_map(|(place, change)| {
        let (first, last) = spans[&change.key];
        let item = change.image.as_ref().filter(|_| last == place)?;
        Some(Changed { item, first })
    });
    newest.collect()
}
