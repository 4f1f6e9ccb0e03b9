//! The tool `deploy`: parses and plans deployments. Nothing carries them out yet.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_domain::{Fields, Refusal, TaskType};
use watchbill_governance::{Operation, OperationRule, ToolClass, ToolSpec};
use watchbill_runtime::ooda::Observation;
use watchbill_runtime::run::{Run, RunOutcome};
use watchbill_runtime::tool::{Arguments, Tool, TypedTool, normalize, tool};

static SPEC: ToolSpec = ToolSpec {
    name: "deploy",
    description: "Deploys a project to an environment.",
    class: ToolClass::Mutating,
    operation: OperationRule::ByEnvironment {
        production: Operation::DeployProd,
        low_risk: Operation::DeployProdLowRisk,
        staging: Operation::DeployStaging,
        sandbox: Operation::DeploySandbox,
    },
    gate_type: TaskType::Deploy,
    schema: || {
        json!({ "type": "object", "required": ["project"], "properties": {
            "project": { "type": "string", "maxLength": 200 },
            "environment": { "type": "string", "maxLength": 100, "default": "production" },
            "branch": { "type": "string", "maxLength": 250 },
        }})
    },
    normalize: normalize::<DeployParameters>,
};

/// The tool only plans, and reports that nothing was deployed.
pub fn deploy() -> Arc<dyn Tool> {
    tool(&SPEC, Deploy)
}

struct Deploy;

#[async_trait]
impl TypedTool<DeployParameters> for Deploy {
    async fn run(&self, _run: &Run, _seen: &Observation, asked: &DeployParameters) -> RunOutcome {
        no_deployer(asked)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct DeployParameters {
    project: String,
    environment: String,
    branch: Option<String>,
}

impl Arguments for DeployParameters {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let project = fields.bounded("project", 200)?.ok_or_else(|| {
            Refusal::missing(&fields.at("project"), "the name of the project to deploy")
        })?;
        let environment =
            fields.bounded("environment", 100)?.unwrap_or_else(|| "production".to_owned());
        Ok(Self { project, environment, branch: fields.bounded("branch", 250)? })
    }

    fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("project".to_owned(), self.project.as_str().into());
        map.insert("environment".to_owned(), self.environment.as_str().into());
        if let Some(branch) = &self.branch {
            map.insert("branch".to_owned(), branch.as_str().into());
        }
        map
    }
}

fn no_deployer(asked: &DeployParameters) -> RunOutcome {
    let DeployParameters { project, environment, .. } = asked;
    RunOutcome::Blocked {
        reason: format!(
            "nothing was deployed: no deployer is configured, so {project} can't be deployed to \
             {environment}; this release has none: deploy it by other means and cancel this task"
        ),
        question: None,
    }
}
