//! Tasks of agents whose work is not in this build and is not left to external workers: they
//! stay blocked until an external worker claims one.

use serde_json::{Value, json};
use watchbill_domain::{ChangeKind, Status};

use super::task::Transition;
use super::wait;

/// Prefix of the blocking reason when the agent is not built.
pub const NOT_BUILT: &str = "agent_not_built";

impl Transition<'_> {
    /// Blocks the task until an external worker claims it or a build with its agent runs.
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
            "{NOT_BUILT}: this '{task_type}' task waits, because the {agent} agent is not part of \
             this build; an external worker can claim it (PATCH /tasks/<id>/status with \
             in_progress), or EXTERNAL_AGENTS={agent} leaves all of the agent's tasks to external \
             workers"
        ));
    }

    /// Blocks a task that an earlier build sent to its lane, if no process of this build does
    /// its agent's work. Otherwise returns `false`.
    pub fn block_if_left_to_nobody(&mut self) -> bool {
        if !self.facts.rules.is_left_to_nobody(self.task.agent, self.task.task_type) {
            return false;
        }
        wait::extend_grants(self);
        self.block_as_not_built();
        self.log_change(ChangeKind::Blocked, "", Some(NOT_BUILT));
        self.assigned_event(json!({}));
        true
    }

    /// Emits the event that follows a call of [`assign`](Self::assign).
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
