//! The test environment: a core on in-memory adapters, and the requests that tests make.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_core::decide::VersionedAuthorization;
use watchbill_core::decide::{Command, EngineConfig, RunResult};
use watchbill_core::ports::{Clock as _, Store};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{CommandError, Core, NewTask, Ports};
use watchbill_domain::{
    Agent, Body, Caller, Outcome, Priority, ReputationEvent, Role, ScoreDelta, Status, TaskId,
    TaskType, TenantId,
};
use watchbill_testkit::{
    FakeClock, FlakyStore, MemoryBlobs, MemoryStore, MemoryWake, ScriptedStore, SeededEntropy,
    a_task,
};

pub struct World {
    pub store: Arc<MemoryStore>,
    pub blobs: Arc<MemoryBlobs>,
    pub clock: Arc<FakeClock>,
    pub wake: Arc<MemoryWake>,
    pub core: Core,
    /// Tests use it to make the store fail.
    pub script: Arc<ScriptedStore>,
}

impl World {
    pub fn new(rules: EngineConfig) -> Self {
        Self::made(rules, 1, None)
    }

    /// Concurrent calls interleave in an order that the seed decides; `percent` of the commits
    /// get a wrong response.
    pub fn flaky(rules: EngineConfig, seed: u64, percent: u64) -> Self {
        Self::made(rules, seed, Some(percent))
    }

    fn made(rules: EngineConfig, seed: u64, percent: Option<u64>) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let blobs = Arc::new(MemoryBlobs::new());
        let wake = Arc::new(MemoryWake::new());
        let seen: Arc<dyn Store> = match percent {
            None => store.clone(),
            Some(percent) => Arc::new(FlakyStore::new(store.clone(), seed, percent)),
        };
        let script = Arc::new(ScriptedStore::new(seen));
        let ports = Ports {
            store: script.clone(),
            blobs: blobs.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            wake: wake.clone(),
        };
        let core = Core::new(ports, Arc::new(rules), 1);
        Self { store, blobs, clock, wake, core, script }
    }

    pub fn count(&self, kind: &str) -> usize {
        self.store.items().iter().filter(|item| *item.kind == *kind).count()
    }

    pub async fn create(&self, new: NewTask) -> TaskId {
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    pub async fn stored(&self, id: &TaskId) -> StoredTask {
        self.core.tasks().stored(&tenant(), id).await.unwrap().unwrap()
    }

    pub async fn claim(&self, id: &TaskId) -> Result<StoredTask, CommandError> {
        let stored = self.stored(id).await.value;
        let (agent, assignment) = (stored.agent, stored.assignment);
        let stored = self.core.tasks().stored(&tenant(), id).await?;
        let authorization =
            VersionedAuthorization::granted(stored.map_or(0, |stored| stored.version));
        let command = Command::Claim { agent, owner: "lambda:1".into(), assignment, authorization };
        self.core.tasks().command(&tenant(), id, &command).await
    }

    pub async fn end(
        &self,
        id: &TaskId,
        fence: u64,
        ending: RunResult,
    ) -> Result<StoredTask, CommandError> {
        self.core.tasks().command(&tenant(), id, &end(fence, ending)).await
    }

    /// Asserts that no item has a due time.
    pub fn assert_nothing_due(&self) {
        let due: Vec<_> =
            self.store.items().into_iter().filter(|item| item.due.is_some()).collect();
        assert!(due.is_empty(), "still due: {due:?}");
    }
}

pub fn tenant() -> TenantId {
    TenantId::default()
}

pub fn caller(name: &str) -> Caller {
    Caller { name: name.into(), role: Role::Admin, tenant: tenant(), made_by: None }
}

pub fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

pub fn new_task(task_type: TaskType, priority: Priority) -> NewTask {
    NewTask {
        task_type,
        priority,
        payload: object(json!({"description": "Look at the shop"})),
        trace_id: Some("trace".into()),
        ..a_task()
    }
}

pub fn plain() -> NewTask {
    new_task(TaskType::Monitor, Priority::P2)
}

pub fn end(fence: u64, ending: RunResult) -> Command {
    let outcome = Outcome {
        reputation: vec![ScoreDelta(ReputationEvent::TaskSuccess, 2)],
        ..Outcome::default()
    };
    Command::End { fence, ending, events: Vec::new(), notes: Vec::new(), outcome }
}

pub fn succeeded() -> RunResult {
    RunResult::Succeeded { result: Body::default() }
}

/// Rules under which external workers do the ops agent's tasks.
pub fn outside_rules() -> EngineConfig {
    EngineConfig { external: [Agent::Ops].into(), ..EngineConfig::default() }
}

pub fn whats(stored: &StoredTask) -> Vec<&'static str> {
    stored.value.log.iter().map(|entry| entry.what.as_str()).collect()
}

pub fn is(stored: &StoredTask, status: Status) -> bool {
    stored.value.status == status
}
