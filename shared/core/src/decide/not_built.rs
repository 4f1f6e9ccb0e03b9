//! Tasks of agents whose work is not part of this build, and that nobody left to workers outside:
//! they are blocked until such a worker claims one.

use serde_json::{Value, json};

use super::task::Step;
use crate::domain::Status;

/// How the reason begins for which a task waits whose agent is not built.
pub const NOT_BUILT: &str = "agent_not_built";

impl Step<'_> {
    /// The task waits for a worker outside, or for a build that has its agent.
    pub fn block_as_not_built(&mut self) {
        let task = &mut self.task;
        task.status = Status::Blocked;
        task.not_built = true;
        task.external = false;
        task.lease = None;
        task.resume_at = None;
        task.offer_at = None;
        task.offers = 0;
        task.excused = 0;
        task.held = None;
        let (agent, task_type) = (task.agent, task.task_type);
        task.error = Some(format!(
            "{NOT_BUILT}: this '{task_type}' task waits, because the {agent} agent's work is not \
             part of this build; a worker of yours may take it (PATCH /tasks/<id>/status with \
             in_progress), and EXTERNAL_AGENTS={agent} leaves all of the agent's tasks to such \
             workers"
        ));
    }

    /// What is told of a task that [`assign`](Self::assign) was called for.
    pub fn assigned_event(&mut self, more: Value) {
        if self.task.not_built {
            return self.event("task.blocked", json!({ "reason": NOT_BUILT }));
        }
        let mut payload = json!({ "assigned_to": self.task.agent });
        if let (Value::Object(payload), Value::Object(more)) = (&mut payload, more) {
            payload.extend(more);
        }
        self.event("task.assigned", payload);
    }
}
