use std::sync::Mutex;

use watchbill_core::decide::Rules;
use watchbill_core::domain::{EventId, EventPriority};
use watchbill_core::service::Ports;
use watchbill_testkit::{FakeClock, MemoryBlobs, MemoryStore, MemoryWake, SeededEntropy};

use super::*;

/// A webhook that is down for some of what it is sent.
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

fn event(id: &str) -> Event {
    Event {
        event_id: EventId::parse(id).unwrap(),
        event_type: EventType::parse("task.failed").unwrap(),
        priority: EventPriority::Medium,
        source_agent: "ops".into(),
        trace_id: "t".into(),
        task_id: None,
        payload: Default::default(),
        timestamp: Default::default(),
        metadata: Default::default(),
        hops: 0,
    }
}

fn named(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn lane(endpoint: Arc<Endpoint>) -> (NoticeLane, impl Future<Output = ()>, watch::Sender<bool>) {
    let ports = Ports {
        store: Arc::new(MemoryStore::new()),
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Arc::new(FakeClock::auto(Default::default())),
        entropy: Arc::new(SeededEntropy::new(1)),
        wake: Arc::new(MemoryWake::new()),
    };
    let core = Core::new(ports, Arc::new(Rules::default()), 1);
    let notices = Notices { webhook: endpoint, types: vec!["task.failed".into()], links: None };
    let (stop, stopped) = watch::channel(false);
    let (lane, delivering) = open(notices, core, stopped);
    (lane, delivering, stop)
}

/// A webhook that is down has nobody told again: what there is no room for is dropped and counted,
/// and of those who have most waiting.
#[tokio::test]
async fn a_full_lane_takes_every_event_and_each_tenant_has_its_share() {
    let (lane, _delivering, _stop) = lane(Arc::default());
    for n in 0..3 * MOST {
        lane.on_event(&named("loud"), &event(&format!("l-{n}"))).await.unwrap();
    }
    for n in 0..5 {
        lane.on_event(&named("quiet"), &event(&format!("q-{n}"))).await.unwrap();
    }
    assert_eq!(lane.waiting.dropped() as usize, 2 * MOST + 5);
    assert_eq!(lane.waiting.undelivered(), MOST);
    let mut quiet = 0;
    while let Next::Deliver(notice) = lane.waiting.next(Duration::ZERO) {
        quiet += usize::from(notice.tenant == named("quiet"));
        lane.waiting.done();
    }
    assert_eq!(quiet, 5, "nothing of it was dropped");
}

/// One notice that is never taken delays no other, and is given up in the end.
#[tokio::test]
async fn a_notice_that_is_never_taken_delays_no_other() {
    let fails = vec!["bad".to_owned()];
    let endpoint = Arc::new(Endpoint { fails, ..Endpoint::default() });
    let (lane, delivering, stop) = lane(endpoint.clone());
    for id in ["bad", "a", "b"] {
        lane.on_event(&named("one"), &event(id)).await.unwrap();
    }
    lane.on_event(&named("other"), &event("c")).await.unwrap();
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
    assert_eq!(*endpoint.asked.lock().unwrap(), 3 + TRIES as usize);
    stop.send(true).unwrap();
    delivering.await;
}
