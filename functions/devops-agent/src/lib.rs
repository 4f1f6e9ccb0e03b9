//! The devops agent's function: the lane of devops tasks ends here.
//!
//! How to add its work: give `DevopsAgent` the ports it needs and answer `run` with what it
//! did, as `functions/ops-agent` does.

use async_trait::async_trait;
use watchbill_domain::Agent;
use watchbill_runtime::run::{Run, RunEnd, TaskAgent};

/// Says plainly that its work does not exist yet, and leaves the task to people and to
/// workers outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct DevopsAgent;

#[async_trait]
impl TaskAgent for DevopsAgent {
    fn agent(&self) -> Agent {
        Agent::Devops
    }

    fn acts(&self) -> bool {
        false
    }

    async fn run(&self, run: &Run) -> RunEnd {
        let task_type = run.task.task_type;
        let reason = format!(
            "this '{task_type}' task was not done: DevOps work across the other agents is not part of this build; workers \
             outside can take such tasks with EXTERNAL_AGENTS=devops"
        );
        run.notes.add("decide", 0, &reason);
        RunEnd::Blocked { reason, question: None }
    }
}
