//! Events that start tasks: repeated, concurrent, or caused by each other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Entry, entries_of};
use watchbill_core::ports::Clock as _;
use watchbill_core::reactions::Reaction;
use watchbill_core::repo::{LedgerPeek, decode};
use watchbill_core::service::Core;
use watchbill_domain::{Event, EventId, EventPriority, EventType, Task, TaskId, TenantId};
use watchbill_intake::Intake;
use watchbill_testkit::{FakeClock, FlakyStore, MemoryStore, ports_over};

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    intake: Intake,
}

impl World {
    fn new(seed: u64, percent: u64, reactions: Value) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let ports = ports_over(
            Arc::new(FlakyStore::new(store.clone(), seed, percent)),
            clock.clone(),
            seed,
        );
        let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
        let reactions = Reaction::check_all(serde_json::from_value(reactions).unwrap()).unwrap();
        Self { store, clock, intake: Intake::new(core, reactions) }
    }

    async fn handle(&self, event: &Event) {
        self.intake.handle(&TenantId::default(), event).await.unwrap();
    }

    fn tasks(&self) -> Vec<Task> {
        let items = self.store.items();
        let tasks = items.iter().filter(|item| &*item.kind == "task");
        tasks.map(|item| decode::<Task>(item).unwrap().value).collect()
    }
}

fn event(id: &str, event_type: &str, payload: Value) -> Event {
    Event {
        event_id: EventId::parse(id).unwrap(),
        event_type: EventType::parse(event_type).unwrap(),
        priority: EventPriority::Medium,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: payload.as_object().cloned().unwrap(),
        timestamp: FakeClock::default().now(),
        metadata: [("published_by".to_owned(), json!("ci"))].into_iter().collect(),
        hops: 0,
    }
}

fn request() -> Value {
    json!({"type": "monitor", "payload": {"description": "Look at the shop"}})
}

fn on_deploy() -> Value {
    json!([{
        "name": "mend", "on": "deploy.failed", "subject": ["payload.project"], "window": "10m",
        "task": {"type": "investigate", "payload": {"issue": "{{payload.project}}"}}
    }])
}

#[tokio::test]
async fn a_request_that_comes_twice_makes_one_task() {
    for seed in 0..10 {
        let world = World::new(seed, 20, json!([]));
        let asked = event("e-1", "task.requested", request());
        join_all((0..16).map(|_| world.handle(&asked))).await;
        world.handle(&event("e-2", "task.requested", request())).await;
        let tasks = world.tasks();
        assert_eq!(tasks.len(), 2);
        assert!(tasks.iter().all(|task| task.created_by == "ci" && task.hops == 1));
    }
}

#[tokio::test]
async fn an_invalid_request_creates_nothing_and_is_not_retried() {
    let world = World::new(1, 0, json!([]));
    for payload in
        [json!({}), json!({"type": "dance"}), json!({"type": "ops_cycle", "payload": {}})]
    {
        world.handle(&event("e-1", "task.requested", payload)).await;
    }
    // An event that Watchbill itself would have created: such events never change state.
    let mut own = event("e-2", "task.requested", request());
    own.metadata = Map::new();
    world.handle(&own).await;
    assert_eq!(world.tasks().len(), 0);
}

#[tokio::test]
async fn concurrent_events_of_one_subject_make_one_task_in_a_window() {
    for seed in 0..30 {
        let world = World::new(seed, 10, on_deploy());
        let events: Vec<Event> = (0..12)
            .map(|n| {
                let project = if n % 3 == 0 { "blog" } else { "shop" };
                event(&format!("e-{n}"), "deploy.failed", json!({"project": project}))
            })
            .collect();
        join_all(events.iter().map(|event| world.handle(event))).await;
        join_all(events.iter().map(|event| world.handle(event))).await;
        let mut subjects: Vec<Value> = world
            .tasks()
            .iter()
            .map(|task| task.payload.inline().unwrap()["issue"].clone())
            .collect();
        subjects.sort_by_key(Value::to_string);
        assert_eq!(subjects, [json!("blog"), json!("shop")], "seed {seed}");
    }
}

#[tokio::test]
async fn after_its_window_a_reaction_runs_again_but_not_for_the_same_event() {
    let world = World::new(1, 0, on_deploy());
    let first = event("e-1", "deploy.failed", json!({"project": "shop"}));
    world.handle(&first).await;
    world.clock.advance(Duration::from_secs(599));
    world.handle(&event("e-2", "deploy.failed", json!({"project": "shop"}))).await;
    assert_eq!(world.tasks().len(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.handle(&first).await;
    assert_eq!(world.tasks().len(), 1, "the same event is the same task");
    world.handle(&event("e-3", "deploy.failed", json!({"project": "shop"}))).await;
    assert_eq!(world.tasks().len(), 2);
}

#[tokio::test]
async fn an_event_with_eight_hops_starts_nothing() {
    let world = World::new(1, 0, on_deploy());
    for (hops, tasks) in [(8, 0), (9, 0), (255, 0), (7, 1)] {
        let mut failed = event(&format!("h-{hops}"), "deploy.failed", json!({"project": "shop"}));
        failed.hops = hops;
        world.handle(&failed).await;
        let mut asked = event(&format!("r-{hops}"), "task.requested", request());
        asked.hops = hops;
        world.handle(&asked).await;
        assert_eq!(world.tasks().len(), tasks * 2, "{hops} hops");
    }
}

/// A reaction to task creation that creates a task.
#[tokio::test]
async fn a_chain_that_would_loop_stops_at_eight() {
    let world = World::new(
        1,
        0,
        json!([{"name": "echo", "on": "task.created", "task": {"type": "monitor"}}]),
    );
    world.handle(&event("e-1", "task.requested", request())).await;
    let mut seen: std::collections::BTreeSet<TaskId> = Default::default();
    for _ in 0..30 {
        let items = world.store.items();
        for item in items.iter().filter(|item| &*item.kind == "task") {
            let task = LedgerPeek::of(item).unwrap();
            if !seen.insert(task.id.clone()) {
                continue;
            }
            for event in entries_of(task, Vec::new(), 0).iter().flat_map(Entry::events) {
                world.handle(&event).await;
                world.handle(&event).await;
            }
        }
    }
    let mut hops: Vec<u8> = world.tasks().iter().map(|task| task.hops).collect();
    hops.sort_unstable();
    assert_eq!(hops, [1, 2, 3, 4, 5, 6, 7, 8]);
    let orphans = world.tasks().iter().filter(|task| task.parent.is_none()).count();
    assert_eq!(orphans, 1, "each but the first knows what it came from");
}
