//! Test environment of the stream replay: tasks with a history, and the checks after a replay.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Entry, LedgerReader, verify};
use watchbill_core::ports::{Bus, Change, Item, LaneMessage, Lanes, Store};
use watchbill_core::repo::{Entity as _, decode};
use watchbill_core::service::Governance;
use watchbill_core::service::{Core, NewEvent, NewTask, Ports};
use watchbill_domain::{Agent, EventId, Priority, Status, Task, TaskId, TenantId};
use watchbill_governance::Policy;
use watchbill_lambda::StreamConsumer;
use watchbill_recorder::Recorder;
use watchbill_router::Router;
use watchbill_runtime::executor::Executor;
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};
use watchbill_testkit::{FakeClock, MemoryBus, MemoryLanes, MemoryStore, a_task, ports_over};

use super::calls::{Calls, Counted};
use crate::support::{Recording, Routing};

/// Does the work of a task; some tasks fail at their first run.
struct Worker;

#[async_trait]
impl TaskAgent for Worker {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        if run.payload["fails"] == true && run.task.retries == 0 {
            return RunOutcome::retryable("the first time never works");
        }
        RunOutcome::Done { result: Map::new(), events: Vec::new() }
    }
}

/// Tasks with a history over a store and lanes in memory, and every image that they had.
pub struct World {
    pub store: Arc<MemoryStore>,
    pub lanes: Arc<MemoryLanes>,
    pub bus: Arc<MemoryBus>,
    pub clock: Arc<FakeClock>,
    pub calls: Arc<Calls>,
    pub core: Core,
    pub ports: Ports,
    executor: Executor,
    images: Mutex<(u64, Vec<Change>)>,
}

pub fn tenant() -> TenantId {
    TenantId::default()
}

impl World {
    pub fn new(seed: u64) -> Self {
        let (store, clock) = (Arc::new(MemoryStore::new()), FakeClock::default());
        let clock = Arc::new(FakeClock::auto(watchbill_core::ports::Clock::now(&clock)));
        let ports = ports_over(store.clone(), clock.clone(), seed);
        let core = Core::new(ports.clone(), Arc::new(EngineConfig::default()), 1)
            .governed_by(Governance::fixed(Policy::without_gates()));
        let executor = Executor::new(core.clone(), Arc::new(Worker), "one");
        Self {
            store,
            lanes: Arc::default(),
            bus: Arc::default(),
            clock,
            calls: Arc::default(),
            core,
            ports,
            executor,
            images: Mutex::default(),
        }
    }

    /// A router that has just started: it remembers nothing.
    pub fn router(&self) -> StreamConsumer<Routing> {
        let inner: Arc<dyn Lanes> = self.lanes.clone();
        let lanes = Counted { inner, calls: self.calls.clone() };
        let router = Router::new(Arc::new(lanes), self.clock.clone());
        StreamConsumer::new(Routing(router), self.clock.clone(), "test")
    }

    pub fn recorder(&self) -> StreamConsumer<Recording> {
        self.recorder_over(self.store.clone())
    }

    pub fn recorder_over(&self, inner: Arc<dyn Store>) -> StreamConsumer<Recording> {
        let calls = self.calls.clone();
        let store = Arc::new(Counted { inner, calls: calls.clone() });
        let ports = Ports { store, ..self.ports.clone() };
        let core = Core::new(ports, self.core.rules().clone(), 1)
            .governed_by(self.core.governance().clone());
        let inner: Arc<dyn Bus> = self.bus.clone();
        let recorder = Recorder::new(core, Arc::new(Counted { inner, calls }));
        StreamConsumer::new(Recording(recorder), self.clock.clone(), "test")
    }

    pub async fn create(&self, priority: Priority, fails: bool) -> TaskId {
        self.create_for(&tenant(), priority, fails).await
    }

    pub async fn create_for(&self, tenant: &TenantId, priority: Priority, fails: bool) -> TaskId {
        let new = NewTask {
            tenant: tenant.clone(),
            priority,
            payload: json!({"service": "system", "fails": fails}).as_object().cloned().unwrap(),
            ..a_task()
        };
        let id = self.core.tasks().create(new).await.unwrap().task.task.id;
        self.note_images();
        id
    }

    pub async fn publish(&self, n: usize) {
        let new = NewEvent {
            tenant: tenant(),
            event_type: "deploy.failed".into(),
            source_agent: "ci".into(),
            payload: Map::new(),
            task_id: None,
            trace_id: None,
            priority: None,
            published_by: "ci".into(),
            event_id: Some(format!("e-{n}")),
            hops: 0,
        };
        self.core.events().publish(new).await.unwrap();
        self.note_images();
    }

    /// Handles a message as a queue delivers it; returns false if it must be redelivered.
    pub async fn work(&self, message: &LaneMessage) -> bool {
        let done = self.executor.handle(message).await.is_ok();
        self.note_images();
        done
    }

    /// Handles a task reference for each task that waits for a run, as a complete router sends
    /// them.
    pub async fn run_all(&self) {
        for _ in 0..4 {
            for task in self.tasks() {
                if task.status == Status::Assigned || task.resume_at.is_some() {
                    let wait = task.resume_at.unwrap_or_default();
                    self.clock.advance(wait.since(watchbill_core::ports::Clock::now(&*self.clock)));
                    assert!(self.work(&reference_to(&task)).await);
                }
            }
        }
    }

    /// The stream has an image of every version, so images are collected as they are written.
    pub fn note_images(&self) {
        let mut images = self.images.lock().unwrap();
        for (seq, change) in self.store.changes(images.0, usize::MAX) {
            images.0 = seq;
            images.1.push(change);
        }
    }

    /// Everything that was written, oldest first.
    pub fn stream(&self) -> Vec<Change> {
        self.images.lock().unwrap().1.clone()
    }

    pub fn tasks(&self) -> Vec<Task> {
        let items = self.store.items();
        let tasks = items.iter().filter(|item| *item.kind == *Task::KIND);
        tasks.map(|item| decode::<Task>(item).unwrap().value).collect()
    }

    /// Everything that is stored except the projections, which only record how far a reader is.
    pub fn stored(&self) -> Vec<Item> {
        let items = self.store.items().into_iter();
        items.filter(|item| &*item.kind != "fold").collect()
    }

    /// Checks that each assignment was enqueued.
    pub fn assert_all_enqueued(&self, references: &[LaneMessage]) {
        let enqueued: BTreeSet<_> = references.iter().map(|m| (&m.task_id, m.assignment)).collect();
        for change in self.stream() {
            let Some(item) = change.image.filter(|item| *item.kind == *Task::KIND) else {
                continue;
            };
            let task = decode::<Task>(&item).unwrap().value;
            if task.status == Status::Assigned {
                let wanted = (&task.id, task.assignment);
                assert!(enqueued.contains(&wanted), "no task reference for {wanted:?}");
            }
        }
    }

    /// Checks that each change is in the ledger once and in order, that the chain holds, and
    /// that each event was published, with repeats under the same id.
    pub async fn assert_recorded(&self) {
        self.assert_recorded_for(&tenant()).await;
    }

    pub async fn assert_recorded_for(&self, tenant: &TenantId) {
        verify(self.store.clone(), tenant).await.unwrap();
        let ledger = LedgerReader::new(self.store.clone(), tenant.clone());
        let (mut versions, mut events) = (BTreeMap::<TaskId, Vec<u64>>::new(), BTreeSet::new());
        let mut seq = 1;
        while let Some(batch) = ledger.batch(seq).await.unwrap() {
            for entry in &batch.entries {
                events.extend(entry.events_where(|_| true).into_iter().map(|e| e.event_id));
                if let Entry::Task(entry) = entry {
                    versions.entry(entry.task.clone()).or_default().push(entry.change.version);
                }
            }
            seq += 1;
        }
        for task in self.tasks().iter().filter(|task| task.tenant == *tenant) {
            let wanted: Vec<u64> = task.log.iter().map(|entry| entry.version).collect();
            assert_eq!(versions.get(&task.id), Some(&wanted), "{}", task.id);
        }
        let sent = self.bus.events().into_iter().filter(|(of, _)| of == tenant);
        let sent: BTreeSet<EventId> = sent.map(|(_, event)| event.event_id).collect();
        assert_eq!(sent, events, "recorded and published events are the same");
    }
}

fn reference_to(task: &Task) -> LaneMessage {
    LaneMessage {
        tenant: task.tenant.clone(),
        task_id: task.id.clone(),
        assignment: task.assignment,
        agent: task.agent,
        priority: task.lane(),
        trace_id: task.trace_id.clone(),
    }
}

/// A mix: two dozen tasks of all priorities, some of them run twice, and events between them.
pub async fn history(seed: u64) -> World {
    let world = World::new(seed);
    for n in 0..24 {
        world.create(Priority::ALL[n % 4], n % 5 == 0).await;
        if n % 3 == 0 {
            world.publish(n).await;
        }
        if n % 7 == 6 {
            world.run_all().await;
        }
        world.clock.advance(Duration::from_secs(7));
    }
    world.run_all().await;
    world
}
