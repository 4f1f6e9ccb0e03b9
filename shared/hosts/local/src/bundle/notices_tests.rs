//! Tests of the notify lane: shares of tenants, a failing webhook, dropped notices.

use std::sync::Mutex;

use watchbill_core::decide::EngineConfig;
use watchbill_testkit::{FakeClock, MemoryStore, an_event, ports_over};

use super::*;

/// A webhook that fails for some events.
#[derive(Default)]
struct Endpoint {
    took: Mutex<Vec<String>>,
    fails: Vec<String>,
    asked: Mutex<usize>,
}

#[async_trait]
impl Webhook for Endpoint {
    async fn post(&self, id: &str, _: &[u8]) -> Result<(), HandlerError> {
        *self.asked.lock().unwrap() += 1;
        if self.fails.iter().any(|fails| fails == id) {
            return Err(HandlerError::retry(Duration::ZERO, "503"));
        }
        self.took.lock().unwrap().push(id.to_owned());
        Ok(())
    }
}

fn named(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn lane(endpoint: Arc<Endpoint>) -> (NoticeLane, impl Future<Output = ()>, watch::Sender<bool>) {
    let ports =
        ports_over(Arc::new(MemoryStore::new()), Arc::new(FakeClock::auto(Default::default())), 1);
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    let notices = Notices { webhook: endpoint, types: vec!["task.failed".into()], links: None };
    let (stop, stopped) = watch::channel(false);
    let (lane, delivering) = open(notices, core, stopped);
    (lane, delivering, stop)
}

/// A webhook that is down repeats no event for others: notices beyond the limit are dropped and
/// counted, from the tenant with the most.
#[tokio::test]
async fn a_full_lane_takes_every_event_and_each_tenant_has_its_share() {
    let (lane, _delivering, _stop) = lane(Arc::default());
    for n in 0..3 * MAX_WAITING {
        lane.on_event(&named("loud"), &an_event(&format!("l-{n}"))).await.unwrap();
    }
    for n in 0..5 {
        lane.on_event(&named("quiet"), &an_event(&format!("q-{n}"))).await.unwrap();
    }
    assert_eq!(lane.waiting.dropped() as usize, 2 * MAX_WAITING + 5);
    assert_eq!(lane.waiting.undelivered(), MAX_WAITING);
    let mut quiet = 0;
    while let Next::Deliver(notice) = lane.waiting.next(Duration::ZERO) {
        quiet += usize::from(notice.tenant == named("quiet"));
        lane.waiting.done();
    }
    assert_eq!(quiet, 5, "nothing of it was dropped");
}

/// A notice that is never accepted delays no other, and is given up in the end.
#[tokio::test]
async fn a_notice_that_is_never_taken_delays_no_other() {
    let fails = vec!["bad".to_owned()];
    let endpoint = Arc::new(Endpoint { fails, ..Endpoint::default() });
    let (lane, delivering, stop) = lane(endpoint.clone());
    for id in ["bad", "a", "b"] {
        lane.on_event(&named("one"), &an_event(id)).await.unwrap();
    }
    lane.on_event(&named("other"), &an_event("c")).await.unwrap();
    let mut delivering = std::pin::pin!(delivering);
    let mut polls = 0;
    while *endpoint.asked.lock().unwrap() < 4 {
        polls += 1;
        assert!(polls < 100 && futures_util::poll!(&mut delivering).is_pending());
    }
    assert_eq!(*endpoint.took.lock().unwrap(), ["c", "a", "b"], "in turn, past the bad one");
    while lane.waiting.undelivered() > 0 {
        polls += 1;
        assert!(polls < 100 && futures_util::poll!(&mut delivering).is_pending());
    }
    assert_eq!(*endpoint.asked.lock().unwrap(), 3 + MAX_ATTEMPTS as usize);
    stop.send(true).unwrap();
    delivering.await;
}
