//! The dev agent's function: runs the tasks of the dev lane.
//!
//! To implement the agent, give `DevAgent` the ports it needs and return the result of the work
//! from `run`, as `functions/ops-agent` does.

use async_trait::async_trait;
use watchbill_domain::Agent;
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};

/// Reports that the agent is not implemented and leaves its tasks to people and external
/// workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct DevAgent;

#[async_trait]
impl TaskAgent for DevAgent {
    fn agent(&self) -> Agent {
        Agent::Dev
    }

    fn is_implemented(&self) -> bool {
        false
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        let task_type = run.task.task_type;
        let reason = format!(
            "this '{task_type}' task was not done: code work (bug fixes, features, refactoring, \
             looking into a repository) is not part of this build; external workers can take such \
             tasks with EXTERNAL_AGENTS=dev"
        );
        run.notes.add("decide", 0, &reason);
        RunOutcome::Blocked { reason, question: None }
    }
}
