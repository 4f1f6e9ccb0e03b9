//! The ops cycle's function: the lane of its runs ends here.
//!
//! How to add its work: give `OpsCycle` the ports it needs and answer `run` with what it
//! did, as `functions/ops-agent` does.

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::Agent;
use watchbill_runtime::run::{Run, RunEnd, TaskAgent};

/// Records that a run was due and looked at nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpsCycle;

#[async_trait]
impl TaskAgent for OpsCycle {
    fn agent(&self) -> Agent {
        Agent::Cycle
    }

    fn acts(&self) -> bool {
        false
    }

    async fn run(&self, run: &Run) -> RunEnd {
        run.notes.add("decide", 0, "skipped: not built");
        let mut result = Map::new();
        result.insert("status".into(), Value::from("skipped"));
        result.insert("reason".into(), Value::from("not built"));
        RunEnd::Done { result, events: Vec::new() }
    }
}
