//! Rejects what can't be imported: moves it to where people find it, marks it as failed for
//! whoever waits for it, and records an event.

use std::sync::atomic::Ordering;

use watchbill_wire::legacy::{ImportError, LegacyEvent, RejectedMessage, RejectedTask};

use crate::BridgeContext;
use crate::backend::{BackendError, LegacyEventRequest};
use crate::report::Metrics;
use crate::run_loop::SyncError;

/// The key of the legacy queue, for log messages.
const QUEUE: &str = "orchestrator:tasks";

pub(crate) async fn reject_task(
    context: &BridgeContext,
    metrics: &Metrics,
    id: &str,
    what: ImportError,
) -> Result<(), SyncError> {
    let ImportError { reason, data } = what;
    let rejected = RejectedTask { id: id.to_owned(), data, reason, at: context.clock.now() };
    // Recorded first: its id makes a repeat idempotent, and after the next step a retry would
    // not find the task.
    record(context, context.legacy.rejection(&rejected)).await?;
    if context.legacy.reject(&rejected).await? {
        metrics.rejected.fetch_add(1, Ordering::Relaxed);
        let reason = &rejected.reason;
        tracing::warn!(
            task_id = %id, queue = QUEUE, reason,
            "a task was moved to watchbill:rejected"
        );
    }
    Ok(())
}

pub(crate) async fn reject_message(
    context: &BridgeContext,
    metrics: &Metrics,
    domain: &str,
    message: &[u8],
    reason: String,
) -> Result<(), SyncError> {
    let rejected = RejectedMessage { message: message.to_vec(), reason, at: context.clock.now() };
    if let Some(event) = context.legacy.refusal(&rejected) {
        record(context, event).await?;
    }
    context.legacy.refuse(domain, &rejected).await?;
    metrics.rejected.fetch_add(1, Ordering::Relaxed);
    let reason = &rejected.reason;
    tracing::warn!(domain, reason, "a domain's message was moved to watchbill:rejected");
    Ok(())
}

/// Records an event of the rejection. A repeat is the same event.
async fn record(context: &BridgeContext, record: LegacyEvent) -> Result<(), BackendError> {
    let LegacyEvent { id, event, hops, .. } = record;
    match context.backend.publish(LegacyEventRequest { id, event, hops }).await {
        Err(error @ BackendError::Retry { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the event of a rejection can't be recorded");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
