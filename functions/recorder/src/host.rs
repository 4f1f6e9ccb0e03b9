//! What hosts call besides `record`: at the start, at the end of an invocation, when the feed is
//! quiet, and for changes that never reached `record`.

use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Key};
use watchbill_core::repo::{is_recordable_key, tenant_of};
use watchbill_core::service::{TENANTS_A_CALL, ToPark};
use watchbill_domain::TenantId;

use crate::{FULL_BATCH, MAX_TIME, RETRY_DELAY, Recorder, TIME_MARGIN, Work, held};

/// How much of its time a call leaves for its response.
const LAST_SAVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Recorder {
    /// Parks a change of which only the key could be read, or whose processing panicked; it is
    /// replayed from its item. An error means that it can't be parked either.
    pub async fn keep(
        &self,
        key: &Key,
        version: Option<u64>,
        reason: &str,
    ) -> Result<(), HandlerError> {
        let Some(tenant) = tenant_of(key).filter(|_| is_recordable_key(key)) else {
            return Ok(());
        };
        // If the version is unknown, every version counts as missing; recorded ones are
        // detected.
        let first = version.unwrap_or(1);
        let partition = key.partition.clone();
        let some = ToPark { partition, first: Some(first), last: first, unsent: None };
        let parked = self.core.parking().park(&tenant, &[some], reason).await;
        parked.map_err(|error| held(&tenant, &error))
    }

    /// Publishes what an earlier process appended but may not have published, for some tenants
    /// with a ledger after the given one. Returns the tenant to continue after, or `None` at the
    /// end. For a tenant that fails, a later replay is requested.
    pub async fn catch_up(
        &self,
        after: Option<&TenantId>,
    ) -> Result<Option<TenantId>, HandlerError> {
        let mut state = self.state.lock().await;
        let tenants = self.core.tenants().after(after, TENANTS_A_CALL).await?;
        let next = tenants.last().cloned().filter(|_| tenants.len() == TENANTS_A_CALL);
        let mut again = None;
        for tenant in tenants {
            if state.tenants.contains_key(&tenant) {
                continue;
            }
            state.until = self.core.clock().monotonic() + MAX_TIME;
            if let Err(fault) = self.work(&mut state, &tenant, Work::Publish).await {
                let held_back = self.core.parking().hold_events(&tenant, &fault.to_string()).await;
                again = again.or(held_back.err().map(|error| held(&tenant, &error)));
            }
        }
        again.map_or(Ok(next), Err)
    }

    /// Records one batch of a feed that does not report when it is quiet: a batch that is not
    /// full was the last for now. Ends within `left`, except for recording itself.
    pub async fn record_invocation(
        &self,
        changes: &[Change],
        left: Duration,
    ) -> Result<(), HandlerError> {
        let end = self.core.clock().monotonic() + left.saturating_sub(LAST_SAVE_TIMEOUT);
        let done =
            self.record_within(changes, left.saturating_sub(TIME_MARGIN).min(MAX_TIME)).await;
        match done.is_ok() && changes.len() < FULL_BATCH {
            true => self.quiet_until(end).await,
            // What was sent counts as sent, even if another tenant's changes are retried.
            false => self.keep_places(end).await,
        }
        done.map(drop)
    }

    /// Saves each tenant's publish position where no other saved item contains it. A later call
    /// does the rest.
    async fn keep_places(&self, end: Duration) {
        for recorder in self.state.lock().await.tenants.values_mut() {
            if self.core.clock().monotonic() >= end {
                return;
            }
            recorder.keep_place_if_unknown(&self.core).await;
        }
    }

    /// Saves the current task counts. Call it when the feed is quiet: readers then get complete
    /// counts from one item.
    pub async fn quiet(&self) {
        self.quiet_until(Duration::MAX).await;
    }

    async fn quiet_until(&self, end: Duration) {
        let mut state = self.state.lock().await;
        let mut stale = Vec::new();
        for (tenant, recorder) in &mut state.tenants {
            if self.core.clock().monotonic() >= end {
                break;
            }
            if let Err(fault) = recorder.save_stats(&self.core).await {
                // No data is lost: the ledger has it all.
                tracing::warn!(%tenant, error = %fault, "the task counts can't be saved");
                stale.push(tenant.clone());
            }
        }
        // The cached state may differ from the store: read it again next time.
        for tenant in stale {
            state.tenants.remove(&tenant);
        }
    }

    /// Saves the current projections, which makes the next start faster; they are not lost
    /// without it. A failure for one tenant does not stop the others.
    pub async fn save(&self) -> Result<(), HandlerError> {
        let mut failed = None;
        for (tenant, recorder) in &mut self.state.lock().await.tenants {
            if let Err(fault) = recorder.save(&self.core).await {
                failed =
                    Some(format!("the projections of tenant {tenant} can't be saved: {fault}"));
            }
        }
        failed.map_or(Ok(()), |reason| Err(HandlerError::retry(RETRY_DELAY, reason)))
    }
}
