//! Values that most tests start from: in-memory ports, a core, a task, an event and a ledger
//! entry.

use std::sync::Arc;

use serde_json::Map;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock, Store};
use watchbill_core::service::{Core, Governance, Identity, NewTask, Ports};
use watchbill_domain::{
    Agent, ChangeKind, Event, EventId, EventPriority, EventType, LogEntry, Outcome, Priority,
    Status, TaskEntry, TaskId, TaskType, TenantId, Timestamp,
};
use watchbill_governance::Policy;

use crate::{MemoryBlobs, MemoryWake, SeededEntropy};

/// An ungated task as a user submits it. A test changes the fields it is about.
pub fn a_task() -> NewTask {
    NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        source: "user".into(),
        payload: Map::new(),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "alex".into(),
        also_requested_by: Vec::new(),
        identity: Identity::Fresh,
        hops: 0,
    }
}

/// A minimal event of our own.
pub fn an_event(id: &str) -> Event {
    Event {
        event_id: EventId::parse(id).expect("a proper id"),
        event_type: EventType::parse("task.failed").expect("a proper type"),
        priority: EventPriority::Medium,
        source_agent: "ops".into(),
        trace_id: "t".into(),
        task_id: None,
        payload: Map::new(),
        timestamp: Timestamp::default(),
        metadata: Map::new(),
        hops: 0,
    }
}

/// The ledger entry for the completion of the `n`th task, with its outcome.
pub fn a_completion(n: u64, at: Timestamp, outcome: Outcome) -> TaskEntry {
    TaskEntry {
        task: TaskId::parse(&format!("t-{n}")).expect("a proper id"),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        agent: Agent::Ops,
        trace_id: "trace".into(),
        hops: 0,
        created_at: None,
        change: LogEntry {
            version: 3,
            at,
            what: ChangeKind::Completed,
            by: "one".into(),
            status: Status::Completed,
            before: Some(Status::InProgress),
            note: None,
            run: None,
            events: Vec::new(),
            outcome: Some(outcome),
        },
    }
}

/// Ports over the given store and clock. All other ports are new and in memory.
pub fn ports_over(store: Arc<dyn Store>, clock: Arc<dyn Clock>, seed: u64) -> Ports {
    Ports {
        store,
        blobs: Arc::new(MemoryBlobs::new()),
        clock,
        entropy: Arc::new(SeededEntropy::new(seed)),
        wake: Arc::new(MemoryWake::new()),
    }
}

/// A core in which no task requires approval.
pub fn ungated_core(ports: Ports, rules: EngineConfig) -> Core {
    Core::new(ports, Arc::new(rules), 1).governed_by(Governance::fixed(Policy::without_gates()))
}
