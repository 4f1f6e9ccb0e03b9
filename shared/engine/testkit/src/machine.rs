//! A core over in-memory ports, with tasks to run on it.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::VersionedAuthorization;
use watchbill_core::decide::{Command, EngineConfig, LeaseRules};
use watchbill_core::ports::{Clock as _, LaneMessage, Store};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{Core, Governance, Ports};
use watchbill_domain::{Agent, TaskId, TenantId};
use watchbill_governance::Policy;

use super::{FakeClock, KnownTools, MemoryBlobs, MemoryStore, MemoryWake, SeededEntropy, a_task};

/// The default tenant.
pub fn tenant() -> TenantId {
    TenantId::default()
}

/// A run takes at most five minutes; its lease lasts five seconds longer.
pub fn machine_rules() -> EngineConfig {
    EngineConfig {
        lease: LeaseRules { run: Duration::from_secs(300), ..EngineConfig::default().lease },
        ..EngineConfig::default()
    }
}

/// One machine: its own clock and randomness over a store that may be shared.
#[derive(Clone)]
pub struct Machine {
    pub clock: Arc<FakeClock>,
    pub blobs: Arc<MemoryBlobs>,
    pub core: Core,
}

impl Machine {
    /// `auto`: sleeps advance the clock themselves.
    pub fn at(store: Arc<dyn Store>, seed: u64, auto: bool) -> Self {
        let start = FakeClock::default().now();
        let clock = Arc::new(if auto { FakeClock::auto(start) } else { FakeClock::at(start) });
        let blobs = Arc::new(MemoryBlobs::new());
        let ports = Ports {
            store,
            blobs: blobs.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            wake: Arc::new(MemoryWake::new()),
        };
        Self {
            core: Core::new(ports, Arc::new(machine_rules()), 1)
                .governed_by(Governance::fixed(Policy::without_gates()))
                .planned_by(Arc::new(KnownTools)),
            clock,
            blobs,
        }
    }

    pub async fn create(&self) -> TaskId {
        let new = a_task();
        self.core.tasks().create(new).await.expect("it is done").task.task.id
    }

    pub async fn stored(&self, id: &TaskId) -> StoredTask {
        let stored = self.core.tasks().stored(&tenant(), id).await;
        stored.expect("the store answers").expect("it is there")
    }

    pub async fn claim(&self, id: &TaskId) -> StoredTask {
        let assignment = self.stored(id).await.value.assignment;
        let version = self.stored(id).await.version;
        let (agent, authorization) = (Agent::Ops, VersionedAuthorization::granted(version));
        let command = Command::Claim { agent, owner: "one".into(), assignment, authorization };
        self.core.tasks().command(&tenant(), id, &command).await.expect("it is done")
    }

    /// The task reference that the router would enqueue.
    pub async fn pointer(&self, id: &TaskId) -> LaneMessage {
        let task = self.stored(id).await.value;
        LaneMessage {
            tenant: task.tenant.clone(),
            task_id: task.id.clone(),
            assignment: task.assignment,
            agent: task.agent,
            priority: task.lane(),
            trace_id: task.trace_id.clone(),
        }
    }
}

/// The kinds of a task's changes, in log order.
pub fn whats(stored: &StoredTask) -> Vec<&'static str> {
    stored.value.log.iter().map(|entry| entry.what.as_str()).collect()
}

/// Asserts that no item is due any more.
pub fn assert_nothing_due(store: &MemoryStore) {
    assert!(store.items().iter().all(|item| item.due.is_none()), "something is still due");
}
