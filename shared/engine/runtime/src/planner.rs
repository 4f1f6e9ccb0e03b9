//! What the playbook would do, for gates and approvals.

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, TaskType, ToolCall};
use watchbill_governance::{PlainPlanner, Planner};

use crate::ooda::effective_type;
use crate::playbook;

/// Plans by the playbook: the same pure function that decides at the run.
pub struct PlaybookPlanner;

impl Planner for PlaybookPlanner {
    fn gated_as(&self, task_type: TaskType, payload: &Map<String, Value>) -> TaskType {
        // Without a text the type is all there is.
        match payload.contains_key("description") {
            true => effective_type(task_type, payload),
            false => task_type,
        }
    }

    fn plan(
        &self,
        agent: Agent,
        task_type: TaskType,
        payload: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut plan = PlainPlanner.plan(agent, task_type, payload);
        if let (Agent::Ops, Ok(planned)) = (agent, playbook::plan(task_type, payload)) {
            plan.insert("action".into(), json!(planned.action.as_str()));
            plan.insert("parameters".into(), Value::Object(planned.parameters));
            plan.insert("reason".into(), json!(planned.reason));
        }
        plan
    }

    fn call(
        &self,
        agent: Agent,
        task_type: TaskType,
        payload: &Map<String, Value>,
    ) -> Option<ToolCall> {
        if agent != Agent::Ops {
            return None;
        }
        let plan = playbook::plan(task_type, payload).ok()?;
        Some(plan.call())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gated_as(task_type: TaskType, payload: Value) -> TaskType {
        PlaybookPlanner.gated_as(task_type, payload.as_object().unwrap())
    }

    #[test]
    fn a_text_that_asks_for_a_deployment_is_gated_as_one() {
        let text = json!({ "description": "Deploy latest changes to production" });
        assert_eq!(gated_as(TaskType::Monitor, text), TaskType::Deploy);
        let text = json!({ "description": "Check how the api is doing", "service": "api" });
        assert_eq!(gated_as(TaskType::Monitor, text), TaskType::Monitor);
        assert_eq!(
            gated_as(TaskType::Bugfix, json!({ "description": "Deploy" })),
            TaskType::Bugfix
        );
    }

    #[test]
    fn the_plan_shows_what_would_run() {
        let payload = json!({ "project": "shop", "environment": "staging" });
        let plan = PlaybookPlanner.plan(Agent::Ops, TaskType::Deploy, payload.as_object().unwrap());
        assert_eq!(plan["action"], "deploy");
        assert_eq!(plan["parameters"]["environment"], "staging");
    }
}
