//! What can't be taken over: it goes where people find it, whoever waits for it is told that it
//! has failed, and the bundle has an event of it.

use std::sync::atomic::Ordering;

use watchbill_core::ports::{DomainWrite, Failure, Rejected};
use watchbill_wire::redis::{DomainView, PeerEvent, Rejection, iso};

use crate::Sides;
use crate::drive::Trouble;
use crate::home::{EventOfPeer, HomeError};
use crate::out::messages;
use crate::report::Figures;

/// Rejects a task of the peer's queue. `data`: what stood there.
pub(crate) async fn reject_task(
    sides: &Sides,
    figures: &Figures,
    queue: &str,
    id: &str,
    data: Option<Vec<u8>>,
    reason: String,
) -> Result<(), Trouble> {
    let now = sides.clock.now();
    let text = data.as_deref().and_then(|data| std::str::from_utf8(data).ok());
    let rejection = Rejection::new(id, text, &reason, now);
    let messages = messages(rejection.record.event.event_type.as_str(), rejection.event);
    let failure = Failure { data: rejection.data, messages: messages.into() };
    // First: its id keeps a repeat out, and after the next step nobody would know of it.
    record(sides, rejection.record).await?;
    let (queue, member) = (queue.to_owned(), id.as_bytes().to_vec());
    let rejected = Rejected { queue, member, reason, data, at: iso(now) };
    if sides.peer.reject(&rejected, &failure).await? {
        figures.rejected.fetch_add(1, Ordering::Relaxed);
        let (queue, reason) = (&rejected.queue, &rejected.reason);
        tracing::warn!(task_id = %id, "task {id} in {queue} was moved to watchbill:rejected: {reason}");
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
    let (now, queue) = (sides.clock.now(), format!("tasks:pending:{domain}"));
    let named = DomainView::of_rejected(message, &reason, now);
    if let Some((id, _)) = &named {
        let data = std::str::from_utf8(message).ok();
        record(sides, Rejection::new(id, data, &reason, now).record).await?;
    }
    let result = named.map(|(id, view)| DomainWrite {
        id,
        fields: view.fields,
        publish: view.publish,
        ..DomainWrite::default()
    });
    let member = message.to_vec();
    let rejected = Rejected { queue, member, reason, data: None, at: iso(now) };
    sides.peer.refuse(domain, &rejected, result.as_ref()).await?;
    figures.rejected.fetch_add(1, Ordering::Relaxed);
    let (queue, reason) = (&rejected.queue, &rejected.reason);
    tracing::warn!("a message of {queue} was moved to watchbill:rejected: {reason}");
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
