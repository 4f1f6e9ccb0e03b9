//! What can't be taken over: it goes where people find it, whoever waits for it is told that it
//! has failed, and the bundle has an event of it.

use std::sync::atomic::Ordering;

use watchbill_wire::peer::{PeerEvent, RejectedMessage, RejectedTask, Unreadable};

use crate::Sides;
use crate::drive::Trouble;
use crate::home::{EventOfPeer, HomeError};
use crate::report::Figures;

/// What people call the peer's queue.
const QUEUE: &str = "orchestrator:tasks";

/// Rejects a task of the peer's queue.
pub(crate) async fn reject_task(
    sides: &Sides,
    figures: &Figures,
    id: &str,
    what: Unreadable,
) -> Result<(), Trouble> {
    let Unreadable { reason, data } = what;
    let rejected = RejectedTask { id: id.to_owned(), data, reason, at: sides.clock.now() };
    // First: its id keeps a repeat out, and after the next step nobody would know of it.
    record(sides, sides.peer.rejection(&rejected)).await?;
    if sides.peer.reject(&rejected).await? {
        figures.rejected.fetch_add(1, Ordering::Relaxed);
        let reason = &rejected.reason;
        tracing::warn!(task_id = %id, "task {id} in {QUEUE} was moved to watchbill:rejected: {reason}");
    }
    Ok(())
}

/// Rejects a message of a domain.
pub(crate) async fn reject_message(
    sides: &Sides,
    figures: &Figures,
    domain: &str,
    message: &[u8],
    reason: String,
) -> Result<(), Trouble> {
    let rejected = RejectedMessage { message: message.to_vec(), reason, at: sides.clock.now() };
    if let Some(event) = sides.peer.refusal(&rejected) {
        record(sides, event).await?;
    }
    sides.peer.refuse(domain, &rejected).await?;
    figures.rejected.fetch_add(1, Ordering::Relaxed);
    let reason = &rejected.reason;
    tracing::warn!("a message of tasks:pending:{domain} was moved to watchbill:rejected: {reason}");
    Ok(())
}

/// An event of it for the bundle, which is the same event where it comes again.
async fn record(sides: &Sides, record: PeerEvent) -> Result<(), HomeError> {
    let PeerEvent { id, event, hops, .. } = record;
    match sides.home.publish(EventOfPeer { id, event, hops }).await {
        Err(error @ HomeError::Retry { .. }) => Err(error),
        Err(error) => {
            tracing::warn!("no event is recorded of a rejected task: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
