//! What the hosts of a recorder call beside `record`: at the start, at the end of an invocation, when
//! the feed is quiet, and for what never came to be recorded.

use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Key};
use watchbill_core::repo::{is_recordable_key, tenant_of};
use watchbill_core::service::{TENANTS_A_CALL, ToPark};
use watchbill_domain::TenantId;

use crate::{FULL_BATCH, MARGIN, MAX_TIME, RETRY_DELAY, Recorder, Work, held};

/// What a call leaves of its time, for its answer.
const LAST: Duration = Duration::from_secs(2);

impl Recorder {
    /// Parks a change of which no more than its key could be read, or over which the call breaks
    /// off: like one that can't be recorded, it is replayed from its item. An error means that
    /// it can't even be parked.
    pub async fn keep(
        &self,
        key: &Key,
        version: Option<u64>,
        reason: &str,
    ) -> Result<(), HandlerError> {
        let Some(tenant) = tenant_of(key).filter(|_| is_recordable_key(key)) else {
            return Ok(());
        };
        // Of an unknown version everything counts as missing: what is recorded is found.
        let first = version.unwrap_or(1);
        let partition = key.partition.clone();
        let some = ToPark { partition, first: Some(first), last: first, unsent: None };
        let parked = self.core.parking().park(&tenant, &[some], reason).await;
        parked.map_err(|error| held(&tenant, &error))
    }

    /// Publishes what an earlier process appended and may not have sent out, for some of the
    /// tenants that have a ledger, after one of them. Answers after which the next call goes on;
    /// nothing where these were the last. For one where it fails it is asked for later.
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

    /// The same for a reader that hears of the feed in batches and can't tell when it goes quiet:
    /// a batch that is not full was the last for now. It is done within the time it is given, but
    /// for what recording itself takes.
    pub async fn record_invocation(
        &self,
        changes: &[Change],
        left: Duration,
    ) -> Result<(), HandlerError> {
        let end = self.core.clock().monotonic() + left.saturating_sub(LAST);
        let done = self.record_within(changes, left.saturating_sub(MARGIN).min(MAX_TIME)).await;
        match done.is_ok() && changes.len() < FULL_BATCH {
            true => self.quiet_until(end).await,
            // What was sent was sent, also where another tenant's changes come again.
            false => self.keep_places(end).await,
        }
        done.map(drop)
    }

    /// Keeps how far was published, where nothing else that is kept says it. What there is no time for
    /// is kept by a later call.
    async fn keep_places(&self, end: Duration) {
        for recorder in self.state.lock().await.tenants.values_mut() {
            if self.core.clock().monotonic() >= end {
                return;
            }
            recorder.keep_place_if_unknown(&self.core).await;
        }
    }

    /// Keeps the counts of tasks as they are now: to be called where the feed has gone quiet, so
    /// that readers find them whole in one item and need no ledger.
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
                // Nothing is lost by it: the ledger has it all.
                tracing::warn!(%tenant, "the counts of tasks are not kept: {fault}");
                stale.push(tenant.clone());
            }
        }
        // What it remembers may no longer be what is stored: read anew next time.
        for tenant in stale {
            state.tenants.remove(&tenant);
        }
    }

    /// Keeps the folds as they are now: nothing is lost without it, the next start is faster.
    /// Where that fails for some, the others' are kept all the same.
    pub async fn save(&self) -> Result<(), HandlerError> {
        let mut failed = None;
        for (tenant, recorder) in &mut self.state.lock().await.tenants {
            if let Err(fault) = recorder.save(&self.core).await {
                failed = Some(format!("folds of tenant {tenant}: {fault}"));
            }
        }
        failed.map_or(Ok(()), |reason| Err(HandlerError::retry(RETRY_DELAY, reason)))
    }
}
