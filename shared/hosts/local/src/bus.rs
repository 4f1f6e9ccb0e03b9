use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use watchbill_core::handler::{HandlerError, panic_text};
use watchbill_core::ports::{Bus, BusError};
use watchbill_domain::{Event, EventId, EventType, TenantId};

/// Someone in this process who is told of events.
#[async_trait]
pub trait Subscriber: Send + Sync {
    fn name(&self) -> &'static str;

    fn wants(&self, event_type: &EventType) -> bool;

    /// `Retry` asks for the event again; `Reject` is logged and forgotten.
    async fn on_event(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError>;
}

/// The event bus within the process: every subscriber gets every event, at least once. One that
/// fails over an event gets it again, and the others don't.
#[derive(Default)]
pub struct LocalBus {
    subscribers: Vec<Arc<dyn Subscriber>>,
    owed: Mutex<Owed>,
}

/// Events that some subscribers took and others did not, with those that did not, by their
/// places. So many are remembered; beyond, all are told again.
#[derive(Default)]
struct Owed {
    to: HashMap<(TenantId, EventId), Vec<usize>>,
    oldest_first: VecDeque<(TenantId, EventId)>,
}

/// Events that are remembered in [`Owed`].
const MAX_OWED: usize = 10_000;

impl Owed {
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

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is still to be told of an event: all, unless some took it before.
    fn to_tell(&self, of: &(TenantId, EventId)) -> Vec<usize> {
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
            for place in self.to_tell(&of) {
                if let Err(why) = tell(&*self.subscribers[place], tenant, event).await {
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
async fn tell(subscriber: &dyn Subscriber, tenant: &TenantId, event: &Event) -> Result<(), String> {
    let name = subscriber.name();
    match AssertUnwindSafe(subscriber.on_event(tenant, event)).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(HandlerError::Retry { reason, .. })) => Err(format!("{name}: {reason}")),
        Ok(Err(HandlerError::Reject { reason })) => {
            let id = &event.event_id;
            tracing::warn!(event = %id, "{name} rejects event {id}: {reason}");
            Ok(())
        }
        Err(panic) => Err(format!("{name} broke off: {}", panic_text(&*panic))),
    }
}

#[cfg(test)]
mod tests {
    use watchbill_testkit::an_event;

    use super::*;

    /// Counts what it is told, and fails over some.
    struct Counting {
        told: Mutex<Vec<String>>,
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
            self.told.lock().unwrap().push(event.event_id.to_string());
            let fails = self.fails.lock().unwrap().is_some_and(|id| id == event.event_id.as_str());
            assert!(!fails || !self.panics, "on purpose");
            if fails { Err(HandlerError::retry(Default::default(), "on purpose")) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn one_that_fails_has_no_other_told_again() {
        for panics in [false, true] {
            let made = |fails| {
                let (told, fails) = (Mutex::default(), Mutex::new(fails));
                Arc::new(Counting { told, fails, panics })
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
                assert_eq!(*other.told.lock().unwrap(), ["b", "a", "a", "c"]);
            }
            assert_eq!(*second.told.lock().unwrap(), ["b", "b", "b", "a", "a", "b", "c"]);
            // Taken by all: what comes again is told again.
            bus.publish(&tenant, &events[1..2]).await.unwrap();
            assert_eq!(first.told.lock().unwrap().len(), 5);
            assert!(bus.owed().oldest_first.is_empty());
        }
    }
}
