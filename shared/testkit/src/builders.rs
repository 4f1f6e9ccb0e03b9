//! What most tests begin with: ports in memory, a core over them, and a plain task.

use std::sync::Arc;

use serde_json::Map;
use watchbill_core::decide::Rules;
use watchbill_core::domain::{Priority, TaskType, TenantId};
use watchbill_core::govern::Policy;
use watchbill_core::ports::{Clock, Store};
use watchbill_core::service::{Core, Governance, Identity, NewTask, Ports};

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
