//! The port that plans what an agent would do with a task.

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, Refusal, TaskType, ToolCall};

use super::ToolSpecs;

/// Plans a task. Gates are decided on the plan, an approver is shown it, and the run follows
/// it. A pure function of the task.
pub trait Planner: Send + Sync {
    /// Computed once for each submission and once for each claim, and passed on from there.
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned;

    /// The tools that exist. A mutating call of any other tool is refused.
    fn specs(&self) -> &ToolSpecs;
}

/// What an agent would do with a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The type that the gates use: a text may ask for more than its type says.
    pub gate_type: TaskType,
    /// The plan as an approver sees it.
    pub document: Map<String, Value>,
    /// The call that the plan makes, or why the task can't be done. `None` if nothing here
    /// plans for this agent.
    pub decision: Option<Result<Plan, Refusal>>,
}

/// The call and its reason. It is the same for every decider, so approval, budget and timeline
/// are too.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub call: ToolCall,
    pub reason: String,
}

impl Planned {
    /// A plan of type and target only, if nothing more is known.
    pub fn plain(agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Self {
        let mut document = Map::new();
        document.insert("agent".into(), json!(agent));
        document.insert("action".into(), json!(task_type));
        for target in ["project", "environment", "service", "url", "repo", "branch", "target"] {
            if let Some(value) = payload.get(target) {
                document.insert(target.to_owned(), value.clone());
            }
        }
        Self { gate_type: task_type, document, decision: None }
    }

    /// The call that the plan makes, if it is known beforehand.
    pub fn call(&self) -> Option<&ToolCall> {
        match &self.decision {
            Some(Ok(plan)) => Some(&plan.call),
            Some(Err(_)) | None => None,
        }
    }
}

/// Plans nothing, and has no tools.
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
