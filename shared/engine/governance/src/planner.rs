//! The port that says what an agent would do.

use serde_json::{Map, Value, json};

use watchbill_domain::{Agent, TaskType, ToolCall};

/// Says before a task is accepted what its agent would do: gates are decided on it, and it
/// is what an approver is shown. A pure function of the task.
pub trait Planner: Send + Sync {
    /// The type that the gates should go by: a text may ask for more than its type says.
    fn gated_as(&self, task_type: TaskType, payload: &Map<String, Value>) -> TaskType {
        let _ = payload;
        task_type
    }

    fn plan(
        &self,
        agent: Agent,
        task_type: TaskType,
        payload: &Map<String, Value>,
    ) -> Map<String, Value>;

    /// The tool that this plan would call, where that is known beforehand.
    fn call(
        &self,
        agent: Agent,
        task_type: TaskType,
        payload: &Map<String, Value>,
    ) -> Option<ToolCall> {
        let _ = (agent, task_type, payload);
        None
    }
}

/// Shows the type and what it is aimed at, where nobody knows more.
pub struct PlainPlanner;

impl Planner for PlainPlanner {
    fn plan(
        &self,
        agent: Agent,
        task_type: TaskType,
        payload: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut plan = Map::new();
        plan.insert("agent".into(), json!(agent));
        plan.insert("action".into(), json!(task_type));
        for target in ["project", "environment", "service", "url", "repo", "branch", "target"] {
            if let Some(value) = payload.get(target) {
                plan.insert(target.to_owned(), value.clone());
            }
        }
        plan
    }
}
