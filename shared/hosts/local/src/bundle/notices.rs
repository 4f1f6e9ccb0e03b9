//! Sends notices of events to a webhook, through a lane in memory, so that a slow or failing
//! endpoint delays nothing else.

mod waiting;

use std::sync::Arc;
use std::time::Duration;

use crate::bus::Subscriber;
use async_trait::async_trait;
use tokio::sync::watch;

use waiting::{Next, Notice, WaitingNotices};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Clock, Webhook};
use watchbill_core::service::Core;
use watchbill_domain::{Event, EventType, TenantId};
use watchbill_notifier::{Links, Notifier};

/// The most waiting notices. Beyond, the tenant with the most waiting notices loses its newest.
const MAX_WAITING: usize = 1_000;
/// How often a delivery is attempted, with exponential backoff: about 34 minutes in total.
const MAX_ATTEMPTS: u32 = 12;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Where notices go, and for which events.
#[derive(Clone)]
pub struct Notices {
    pub webhook: Arc<dyn Webhook>,
    pub types: Vec<String>,
    /// The links by which people decide from a notice.
    pub links: Option<Links>,
}

/// The lane's sending side. It accepts every event: a webhook that is down must not repeat or
/// delay events for other subscribers.
pub struct NoticeLane {
    types: Vec<String>,
    waiting: Arc<WaitingNotices>,
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
        self.waiting.push(tenant.clone(), event.clone());
        Ok(())
    }
}

/// The lane, and the future that delivers its notices until the bundle stops.
pub fn open(
    notices: Notices,
    core: Core,
    stopped: watch::Receiver<bool>,
) -> (NoticeLane, impl Future<Output = ()> + Send) {
    let waiting = Arc::new(WaitingNotices::default());
    let clock = core.clock().clone();
    let notifier = Notifier::new(Some(notices.webhook), core).linking(notices.links);
    let delivering = deliver_all(waiting.clone(), notifier, clock, stopped);
    (NoticeLane { types: notices.types, waiting }, delivering)
}

async fn deliver_all(
    waiting: Arc<WaitingNotices>,
    notifier: Notifier,
    clock: Arc<dyn Clock>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let at_work = async {
            match waiting.next(clock.monotonic()) {
                Next::Deliver(notice) => {
                    deliver(&waiting, &notifier, &*clock, notice).await;
                }
                Next::Wait(Some(until)) => {
                    let wait = until.saturating_sub(clock.monotonic());
                    tokio::select! {
                        () = clock.sleep(wait) => {}
                        () = waiting.news.notified() => {}
                    }
                }
                Next::Wait(None) => waiting.news.notified().await,
            }
        };
        tokio::select! {
            () = at_work => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    let left = waiting.undelivered();
    if left > 0 {
        tracing::warn!(left, "notices had not been delivered when the server stopped");
    }
}

/// Makes one attempt.
async fn deliver(waiting: &WaitingNotices, notifier: &Notifier, clock: &dyn Clock, notice: Notice) {
    let id = notice.event.event_id.clone();
    match notifier.deliver(&notice.tenant, &notice.event).await {
        Ok(()) => {}
        Err(HandlerError::Retry { reason, .. }) if notice.tries + 1 < MAX_ATTEMPTS => {
            let wait = FIRST_WAIT * (1 << notice.tries);
            tracing::debug!(event = %id, "the notice is retried in {wait:?}: {reason}");
            return waiting.again(notice, clock.monotonic() + wait);
        }
        Err(HandlerError::Retry { reason, .. }) => {
            tracing::warn!(event = %id, "notice dropped after {MAX_ATTEMPTS} attempts: {reason}");
        }
        Err(HandlerError::Reject { reason }) => {
            tracing::warn!(event = %id, "notice rejected: {reason}");
        }
    }
    waiting.done();
}

#[cfg(test)]
#[path = "notices_tests.rs"]
mod tests;
