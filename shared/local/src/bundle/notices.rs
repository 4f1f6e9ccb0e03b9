//! Tells someone outside of events: a lane in memory in front of the notifier, so that an
//! endpoint that is slow or down holds up nobody.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use watchbill_adapters_local::bus::Subscriber;
use watchbill_core::domain::{Event, EventType, TenantId};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Clock, Webhook};
use watchbill_core::service::Core;
use watchbill_notifier::{Links, Notifier};

/// Notices that wait for their delivery; for one more there is no room yet.
const MOST: usize = 1_000;
const FULL: Duration = Duration::from_secs(5);
/// How often a delivery is tried, with twice the wait before each: an hour in all.
const TRIES: u32 = 12;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Where notices go, and of which events.
#[derive(Clone)]
pub struct Notices {
    pub webhook: Arc<dyn Webhook>,
    pub types: Vec<String>,
    /// By what people decide from a notice.
    pub links: Option<Links>,
}

type Notice = (TenantId, Event);

/// The lane's sending side, as a subscriber of the bus.
pub struct NoticeLane {
    types: Vec<String>,
    sender: mpsc::Sender<Notice>,
}

#[async_trait]
impl Subscriber for NoticeLane {
    fn name(&self) -> &'static str {
        "notifier"
    }

    fn wants(&self, event_type: &EventType) -> bool {
        self.types.iter().any(|wanted| wanted == event_type.as_str())
    }

    async fn on_event(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        if !self.wants(&event.event_type) {
            return Ok(());
        }
        let notice = (tenant.clone(), event.clone());
        // The recorder keeps the event and comes back with it.
        self.sender.try_send(notice).map_err(|_| {
            HandlerError::retry(FULL, format!("{MOST} notices wait for the webhook already"))
        })
    }
}

/// The lane, and the work of delivering what it holds until the bundle stops.
pub fn open(
    notices: Notices,
    core: Core,
    mut stopped: watch::Receiver<bool>,
) -> (NoticeLane, impl Future<Output = ()> + Send) {
    let (sender, mut waiting) = mpsc::channel::<Notice>(MOST);
    let clock = core.clock().clone();
    let notifier = Notifier::new(Some(notices.webhook), core).linking(notices.links);
    let delivering = async move {
        loop {
            let notice = tokio::select! {
                notice = waiting.recv() => notice,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let Some((tenant, event)) = notice else { return };
            tokio::select! {
                () = deliver(&notifier, &clock, &tenant, &event) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    };
    (NoticeLane { types: notices.types, sender }, delivering)
}

async fn deliver(notifier: &Notifier, clock: &Arc<dyn Clock>, tenant: &TenantId, event: &Event) {
    let mut wait = FIRST_WAIT;
    for _ in 0..TRIES {
        match notifier.deliver(tenant, event).await {
            Ok(()) => return,
            Err(HandlerError::Retry { reason, .. }) => {
                tracing::debug!(event = %event.event_id, "notice again in {wait:?}: {reason}");
                clock.sleep(wait).await;
                wait *= 2;
            }
            Err(HandlerError::Reject { reason }) => {
                tracing::warn!(event = %event.event_id, "notice of {} given up: {reason}", event.event_id);
                return;
            }
        }
    }
    tracing::warn!(event = %event.event_id, "notice of {} given up after {TRIES} tries", event.event_id);
}

#[cfg(test)]
mod tests {
    use watchbill_core::domain::{EventId, EventPriority};

    use super::*;

    /// With no room left an event is to come again: it is not lost.
    #[tokio::test]
    async fn a_full_lane_asks_for_the_event_again() {
        let (sender, mut waiting) = mpsc::channel(1);
        let lane = NoticeLane { types: vec!["task.failed".into()], sender };
        let event = Event {
            event_id: EventId::parse("e-1").unwrap(),
            event_type: EventType::parse("task.failed").unwrap(),
            priority: EventPriority::Medium,
            source_agent: "ops".into(),
            trace_id: "t".into(),
            task_id: None,
            payload: Default::default(),
            timestamp: Default::default(),
            metadata: Default::default(),
            hops: 0,
        };
        lane.on_event(&TenantId::default(), &event).await.unwrap();
        let full = lane.on_event(&TenantId::default(), &event).await;
        assert!(matches!(full, Err(HandlerError::Retry { .. })), "{full:?}");
        waiting.recv().await.expect("the first waits");
        lane.on_event(&TenantId::default(), &event).await.unwrap();
    }
}
