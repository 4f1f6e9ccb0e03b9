//! The ops cycle's function: handles the lane of its scheduled runs.
//!
//! To implement the cycle, give `OpsCycle` the ports it needs and return the result of the work
//! from `run`, as `functions/ops-agent` does.

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::Agent;
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};

/// Records that a run was due; does no work.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpsCycle;

#[async_trait]
impl TaskAgent for OpsCycle {
    fn agent(&self) -> Agent {
        Agent::Cycle
    }

    fn is_implemented(&self) -> bool {
        false
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        run.notes.add("decide", 0, "skipped: not built");
        let mut result = Map::new();
        result.insert("status".into(), Value::from("skipped"));
        result.insert("reason".into(), Value::from("not built"));
        RunOutcome::Done { result, events: Vec::new() }
    }
}
