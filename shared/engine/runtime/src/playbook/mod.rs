//! Deciding by rules, without a model: a pure function of the task's type and payload, so
//! that the plan can be shown and approved before anything runs.

mod classify;
mod plan;
mod rule_hint;
mod time_range;
mod words;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::ToolCall;

pub use classify::{Class, Classification, classify};
pub use plan::plan;
pub use rule_hint::{SuggestedRule, suggested_rule};
pub use time_range::{TimeRange, TimeRangeError};

use crate::ooda::{Decider, Situation};
pub use crate::tools::fields::Refusal;

/// What can be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Deploy,
    Monitor,
    Alert,
    Investigate,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Deploy => "deploy",
            Action::Monitor => "monitor",
            Action::Alert => "alert",
            Action::Investigate => "investigate",
        }
    }

    /// Whether anything but Watchbill's own books can change by it.
    pub fn mutates(self) -> bool {
        match self {
            Action::Deploy => true,
            Action::Monitor | Action::Alert | Action::Investigate => false,
        }
    }
}

/// What will be done, on what, and why: the same for every decider, so that approval,
/// budget and timeline are too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub action: Action,
    pub parameters: Map<String, Value>,
    pub reason: String,
}

impl Plan {
    /// As policy sees it.
    pub fn call(&self) -> ToolCall {
        ToolCall {
            tool: self.action.as_str().to_owned(),
            arguments: self.parameters.clone(),
            mutating: self.action.mutates(),
        }
    }
}

/// The decider that needs no key and no network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Playbook;

#[async_trait]
impl Decider for Playbook {
    async fn decide(&self, situation: &Situation<'_>) -> Result<Plan, Refusal> {
        plan(situation.run.task.task_type, &situation.run.payload)
    }
}
