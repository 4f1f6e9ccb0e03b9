//! Deciding by rules, without a model: a pure function of the task's type and payload, so that
//! the plan can be shown and approved before anything runs.
//!
//! - `classify`: what a free text asks for. `plan`: from type and payload to a call of a tool.
//! - `rule_hint`: a rule that a text asks for by the way. `words`: addresses and names in a text.
//! - `planner`: the same for gates and approvals.
//!
//! How to teach it a tool: its class in `classify`, what of a text becomes which argument in `plan`,
//! rows in the tables of their tests. It reaches tools through their specs alone.

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

/// The decider that needs no key and no network.
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
