//! The port that says what an agent would do with a task.

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, Refusal, TaskType, ToolCall};

use super::ToolSpecs;

/// Plans a task: gates are decided on the plan, an approver is shown it, and the run acts by it.
/// A pure function of the task.
pub trait Planner: Send + Sync {
    /// Worked out once for each submission and once for each claim, and handed on from there.
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned;

    /// The tools that there are. A call of another one that changes something is refused.
    fn specs(&self) -> &ToolSpecs;
}

/// What an agent would do with a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The type that the gates go by: a text may ask for more than its type says.
    pub gated_as: TaskType,
    /// What an approver is shown as the plan.
    pub document: Map<String, Value>,
    /// The call that the plan makes, or why the task can't be done as it is. None: nobody here
    /// plans for this agent.
    pub decision: Option<Result<Plan, Refusal>>,
}

/// What will be done, on what, and why: the same for every decider, so that approval, budget
/// and timeline are too.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub call: ToolCall,
    pub reason: String,
}

impl Planned {
    /// The type and what it is aimed at, where nobody knows more.
    pub fn plain(agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Self {
        let mut document = Map::new();
        document.insert("agent".into(), json!(agent));
        document.insert("action".into(), json!(task_type));
        for target in ["project", "environment", "service", "url", "repo", "branch", "target"] {
            if let Some(value) = payload.get(target) {
                document.insert(target.to_owned(), value.clone());
            }
        }
        Self { gated_as: task_type, document, decision: None }
    }

    /// The call that it makes, where that is known beforehand.
    pub fn call(&self) -> Option<&ToolCall> {
        match &self.decision {
            Some(Ok(plan)) => Some(&plan.call),
            Some(Err(_)) | None => None,
        }
    }
}

/// Plans nothing, and knows no tools.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainPlanner;

static NO_TOOLS: ToolSpecs = ToolSpecs::NONE;

impl Planner for PlainPlanner {
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned {
        Planned::plain(agent, task_type, payload)
    }

    fn specs(&self) -> &ToolSpecs {
        &NO_TOOLS
    }
}
