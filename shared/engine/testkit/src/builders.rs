//! What most tests begin with: ports in memory, a core over them, a plain task, an event, and a
//! line of the ledger.

use std::sync::Arc;

use serde_json::Map;
use watchbill_core::decide::Rules;
use watchbill_core::ports::{Clock, Store};
use watchbill_core::service::{Core, Governance, Identity, NewTask, Ports};
use watchbill_domain::{
    Agent, Event, EventId, EventPriority, EventType, LogEntry, Outcome, Priority, Status,
    TaskEntry, TaskId, TaskType, TenantId, Timestamp, What,
};
use watchbill_governance::Policy;

use crate::{MemoryBlobs, MemoryWake, SeededEntropy};

/// A task as a user submits it, that no gate waits for: change what a test is about.
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

/// An event of our own that nothing more is to be said of.
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

/// The `n`th task's end as the ledger has it, with what came of it.
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
            what: What::Completed,
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

/// Ports over a store and a clock; all else is in memory and new.
pub fn ports_over(store: Arc<dyn Store>, clock: Arc<dyn Clock>, seed: u64) -> Ports {
    Ports {
        store,
        blobs: Arc::new(MemoryBlobs::new()),
        clock,
        entropy: Arc::new(SeededEntropy::new(seed)),
        wake: Arc::new(MemoryWake::new()),
    }
}

/// A core in which nothing waits for a person.
pub fn ungated_core(ports: Ports, rules: Rules) -> Core {
    Core::new(ports, Arc::new(rules), 1).governed_by(Governance::fixed(Policy::without_gates()))
}
