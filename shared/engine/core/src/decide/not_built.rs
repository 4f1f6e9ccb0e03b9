//! Tasks of agents whose work is not part of this build, and that nobody left to workers outside:
//! they are blocked until such a worker claims one.

use serde_json::{Value, json};
use watchbill_domain::{Status, What};

use super::task::Step;
use super::wait;

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

    /// Blocks a task that a build before sent to its lane, though nobody here does its agent's work.
    /// False where somebody does.
    pub fn block_if_left_to_nobody(&mut self) -> bool {
        if !self.facts.rules.is_left_to_nobody(self.task.agent, self.task.task_type) {
            return false;
        }
        wait::settle(self);
        self.block_as_not_built();
        self.says(What::Blocked, "", Some(NOT_BUILT));
        self.assigned_event(json!({}));
        true
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
