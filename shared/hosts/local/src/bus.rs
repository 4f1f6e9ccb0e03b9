//! The event bus within one process.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use watchbill_core::handler::{HandlerError, panic_text};
use watchbill_core::ports::{Bus, BusError};
use watchbill_domain::{Event, EventId, EventType, TenantId};

/// A subscriber of events in this process.
#[async_trait]
pub trait Subscriber: Send + Sync {
    fn name(&self) -> &'static str;

    fn wants(&self, event_type: &EventType) -> bool;

    /// `Retry` asks for the event again. `Reject` is logged, and the event is dropped.
    async fn on_event(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError>;
}

/// Every subscriber gets every event at least once. After a failure only the failed one gets it
/// again.
#[derive(Default)]
pub struct LocalBus {
    subscribers: Vec<Arc<dyn Subscriber>>,
    owed: Mutex<PartlyDelivered>,
}

/// Events that only some accepted, with the indices of the others. Beyond the limit, all
/// subscribers get the event again.
#[derive(Default)]
struct PartlyDelivered {
    to: HashMap<(TenantId, EventId), Vec<usize>>,
    oldest_first: VecDeque<(TenantId, EventId)>,
}

/// How many events [`PartlyDelivered`] remembers.
const MAX_OWED: usize = 10_000;

impl PartlyDelivered {
    fn keep(&mut self, of: (TenantId, EventId), to: Vec<usize>) {
        if self.to.insert(of.clone(), to).is_some() {
            return;
        }
        self.oldest_first.push_back(of);
        if self.oldest_first.len() > MAX_OWED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.to.remove(&oldest);
        }
    }

    fn forget(&mut self, of: &(TenantId, EventId)) {
        if self.to.remove(of).is_some() {
            self.oldest_first.retain(|kept| kept != of);
        }
    }
}

impl LocalBus {
    pub fn new(subscribers: Vec<Arc<dyn Subscriber>>) -> Self {
        Self { subscribers, owed: Mutex::default() }
    }

    fn owed(&self) -> MutexGuard<'_, PartlyDelivered> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The subscribers that still need an event: all, unless some accepted it before.
    fn recipients(&self, of: &(TenantId, EventId)) -> Vec<usize> {
        let owed = self.owed().to.get(of).cloned();
        owed.unwrap_or_else(|| (0..self.subscribers.len()).collect())
    }
}

#[async_trait]
impl Bus for LocalBus {
    fn wants(&self, _tenant: &TenantId, event_type: &EventType) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.wants(event_type))
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let (mut failed, mut reason) = (0, String::new());
        for event in events {
            let of = (tenant.clone(), event.event_id.clone());
            let mut owed = Vec::new();
            for place in self.recipients(&of) {
                if let Err(why) = deliver(&*self.subscribers[place], tenant, event).await {
                    (reason, owed) = (why, [owed, vec![place]].concat());
                }
            }
            match owed.len() {
                0 => self.owed().forget(&of),
                all if all == self.subscribers.len() => failed += 1,
                _ => {
                    failed += 1;
                    self.owed().keep(of, owed);
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(BusError::Partial { sent: events.len(), failed, reason }),
        }
    }
}

/// An error asks for the event again.
async fn deliver(
    subscriber: &dyn Subscriber,
    tenant: &TenantId,
    event: &Event,
) -> Result<(), String> {
    let name = subscriber.name();
    match AssertUnwindSafe(subscriber.on_event(tenant, event)).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(HandlerError::Retry { reason, .. })) => Err(format!("{name}: {reason}")),
        Ok(Err(HandlerError::Reject { reason })) => {
            tracing::warn!(event = %event.event_id, "{name} rejected the event: {reason}");
            Ok(())
        }
        Err(panic) => Err(format!("{name} panicked: {}", panic_text(&*panic))),
    }
}

#[cfg(test)]
mod tests {
    use watchbill_testkit::an_event;

    use super::*;

    /// Counts its events, and fails for some.
    struct Counting {
        received: Mutex<Vec<String>>,
        fails: Mutex<Option<&'static str>>,
        panics: bool,
    }

    #[async_trait]
    impl Subscriber for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn wants(&self, _: &EventType) -> bool {
            true
        }

        async fn on_event(&self, _: &TenantId, event: &Event) -> Result<(), HandlerError> {
            self.received.lock().unwrap().push(event.event_id.to_string());
            let fails = self.fails.lock().unwrap().is_some_and(|id| id == event.event_id.as_str());
            assert!(!fails || !self.panics, "on purpose");
            if fails { Err(HandlerError::retry(Default::default(), "on purpose")) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn a_failing_subscriber_repeats_no_event_for_others() {
        for panics in [false, true] {
            let made = |fails| {
                let (received, fails) = (Mutex::default(), Mutex::new(fails));
                Arc::new(Counting { received, fails, panics })
            };
            let (first, second, third) = (made(None), made(Some("b")), made(None));
            let bus = LocalBus::new(vec![first.clone(), second.clone(), third.clone()]);
            let tenant = TenantId::default();
            let events = [an_event("a"), an_event("b"), an_event("c")];
            for _ in 0..3 {
                bus.publish(&tenant, &events[1..2]).await.unwrap_err();
            }
            bus.publish(&TenantId::parse("other").unwrap(), &events[..1]).await.unwrap();
            *second.fails.lock().unwrap() = None;
            bus.publish(&tenant, &events).await.unwrap();
            for other in [&first, &third] {
                assert_eq!(*other.received.lock().unwrap(), ["b", "a", "a", "c"]);
            }
            assert_eq!(*second.received.lock().unwrap(), ["b", "b", "b", "a", "a", "b", "c"]);
            // All have accepted it, so a repeated event is delivered again.
            bus.publish(&tenant, &events[1..2]).await.unwrap();
            assert_eq!(first.received.lock().unwrap().len(), 5);
            assert!(bus.owed().oldest_first.is_empty());
        }
    }
}
