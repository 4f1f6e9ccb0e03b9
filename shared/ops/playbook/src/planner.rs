//! Plans tasks by the playbook, for gates and approvals.

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, TaskType};
use watchbill_governance::{Planned, Planner, ToolSpecs};

use super::plan::{effective_type, plan};

/// Plans by the playbook, with the same pure function that decides at the run.
#[derive(Clone, Debug)]
pub struct PlaybookPlanner {
    specs: ToolSpecs,
}

impl PlaybookPlanner {
    pub fn new(specs: ToolSpecs) -> Self {
        Self { specs }
    }
}

impl Planner for PlaybookPlanner {
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned {
        let mut planned = Planned::plain(agent, task_type, payload);
        let has_text = payload.contains_key("description");
        if agent != Agent::Ops && !has_text {
            return planned;
        }
        let decision = plan(&self.specs, task_type, payload);
        // Without a text only the type is known.
        if has_text {
            planned.gate_type = effective_type(&self.specs, &decision, task_type, payload);
        }
        if agent != Agent::Ops {
            return planned;
        }
        if let Ok(plan) = &decision {
            let document = &mut planned.document;
            document.insert("action".into(), json!(plan.call.tool));
            document.insert("parameters".into(), Value::Object(plan.call.arguments.clone()));
            document.insert("reason".into(), json!(plan.reason));
        }
        planned.decision = Some(decision);
        planned
    }

    fn specs(&self) -> &ToolSpecs {
        &self.specs
    }
}
