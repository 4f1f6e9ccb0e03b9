//! Appends changes to the ledger, then sends their events out, wakes followers and folds
//! what is derived.
//!
//! A change may come twice, also a day later: what is recorded already is found in the
//! ledger's suffix since the change's own time. Dying between appending and publishing is
//! made good by the next run, which publishes again under the same event ids.

mod recent;
mod tenant;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use watchbill_core::domain::{PublishedEvent, Task, TenantId};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, Change, StoreError};
use watchbill_core::repo::{Entity as _, decode};
use watchbill_core::service::Core;

use tenant::{Recorded, TenantRecorder};

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
        for change in changes {
            if let Some((tenant, change)) = recordable(change)? {
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
            if !tenants.contains_key(&tenant) {
                let opened = TenantRecorder::open(&self.core, &self.bus, tenant.clone()).await?;
                tenants.insert(tenant, opened);
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
fn recordable(change: &Change) -> Result<Option<(TenantId, Recorded)>, HandlerError> {
    let Some(item) = change.image.as_ref() else { return Ok(None) };
    let read = match &*item.kind {
        Task::KIND => decode::<Task>(item).map(|stored| {
            let tenant = stored.value.tenant.clone();
            (tenant, Recorded::task(change, stored.value))
        }),
        PublishedEvent::KIND => decode::<PublishedEvent>(item).map(|stored| {
            (stored.value.tenant, Recorded::event(change, stored.value.event))
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
