//! Decides by rules, without a model. Planning is a pure function of the task's type and
//! payload, so that the plan can be shown and approved before anything runs.
//!
//! - `classify`: what a free text requests. `plan`: from type and payload to a tool call.
//! - `rule_hint`: an alert rule that a text also requests. `words`: URLs and names in a text.
//! - `planner`: the same planning for gates and approvals.
//!
//! How to add a tool: its class in `classify`, the mapping from text to arguments in `plan`,
//! and rows in the tables of their tests. The playbook accesses tools only through their specs.

mod classify;
mod plan;
mod planner;
mod rule_hint;
mod words;

use async_trait::async_trait;
use watchbill_domain::Refusal;
use watchbill_governance::{Plan, Planner as _, ToolSpecs};
use watchbill_runtime::ooda::{Decider, Situation};
use watchbill_runtime::run::Run;

pub use classify::{Class, Classification, classify};
pub use plan::{effective_type, plan};
pub use planner::PlaybookPlanner;
pub use rule_hint::{SuggestedRule, suggested_rule};

/// A decider that needs no key and no network.
#[derive(Clone, Debug)]
pub struct Playbook {
    planner: PlaybookPlanner,
}

impl Playbook {
    pub fn new(specs: ToolSpecs) -> Self {
        Self { planner: PlaybookPlanner::new(specs) }
    }
}

#[async_trait]
impl Decider for Playbook {
    async fn decide(&self, situation: &Situation<'_>) -> Result<Plan, Refusal> {
        let Run { task, payload, planned, .. } = situation.run;
        match planned.as_ref().and_then(|planned| planned.decision.clone()) {
            Some(decision) => decision,
            None => plan(self.planner.specs(), task.task_type, payload),
        }
    }

    fn kind(&self, run: &Run) -> String {
        let description = run.payload.get("description").and_then(|text| text.as_str());
        match description.and_then(classify) {
            Some(found) => format!("{} ({})", found.class.as_str(), found.because),
            None => Class::of_type(run.task.task_type)
                .map_or_else(|| run.task.task_type.to_string(), |class| class.as_str().to_owned()),
        }
    }
}
