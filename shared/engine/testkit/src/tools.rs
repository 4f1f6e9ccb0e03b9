//! Tools for tests of the engine, which defines no tools itself.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, TaskType, ToolCall};
use watchbill_governance::{
    Operation, OperationRule, Plan, Planned, Planner, ToolClass, ToolSpec, ToolSpecs,
};

const fn reads(name: &'static str, gate_type: TaskType, operation: Operation) -> ToolSpec {
    ToolSpec {
        name,
        description: "reads",
        class: ToolClass::Safe,
        operation: OperationRule::Always(operation),
        gate_type,
        schema: || json!({ "type": "object" }),
        normalize: |fields| Ok(fields.map.clone()),
    }
}

static DEPLOY: ToolSpec = ToolSpec {
    name: "deploy",
    description: "changes an external system",
    class: ToolClass::Mutating,
    operation: OperationRule::ByEnvironment {
        production: Operation::DeployProd,
        low_risk: Operation::DeployProdLowRisk,
        staging: Operation::DeployStaging,
        sandbox: Operation::DeploySandbox,
    },
    gate_type: TaskType::Deploy,
    schema: || json!({ "type": "object" }),
    normalize: |fields| Ok(fields.map.clone()),
};
static MONITOR: ToolSpec = reads("monitor", TaskType::Monitor, Operation::MonitorSystem);
static ALERT: ToolSpec = reads("alert", TaskType::Alert, Operation::ManageAlerts);
static INVESTIGATE: ToolSpec =
    reads("investigate", TaskType::Investigate, Operation::InvestigateIssues);

static SPECS: LazyLock<ToolSpecs> = LazyLock::new(|| {
    ToolSpecs::new([&DEPLOY, &MONITOR, &ALERT, &INVESTIGATE]).expect("their names differ")
});

/// Plans nothing. Knows `deploy`, which changes something, and some tools that only read.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownTools;

impl Planner for KnownTools {
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned {
        Planned::plain(agent, task_type, payload)
    }

    fn specs(&self) -> &ToolSpecs {
        &SPECS
    }
}

/// Plans a call of the tool named like the task's type. Only deployments change something.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToolOfType;

impl Planner for ToolOfType {
    fn plan(&self, agent: Agent, task_type: TaskType, payload: &Map<String, Value>) -> Planned {
        let call = ToolCall {
            tool: task_type.to_string(),
            arguments: payload.clone(),
            mutating: task_type == TaskType::Deploy,
        };
        let decision = Some(Ok(Plan { call, reason: "its type".to_owned() }));
        Planned { decision, ..Planned::plain(agent, task_type, payload) }
    }

    fn specs(&self) -> &ToolSpecs {
        &SPECS
    }
}
