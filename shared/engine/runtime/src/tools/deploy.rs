//! Deployments: understood and planned here; carried out by a deployer, once there is one.

use serde_json::{Map, Value};

use super::fields::{Fields, Refusal};
use crate::run::RunEnd;

#[derive(Clone, Debug, PartialEq)]
pub struct DeployParameters {
    pub project: String,
    pub environment: String,
    pub branch: Option<String>,
}

impl DeployParameters {
    pub fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let project = fields.bounded("project", 200)?.ok_or_else(|| {
            Refusal::missing(&fields.at("project"), "the name of the project to deploy")
        })?;
        let environment =
            fields.bounded("environment", 100)?.unwrap_or_else(|| "production".to_owned());
        Ok(Self { project, environment, branch: fields.bounded("branch", 250)? })
    }

    pub fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("project".to_owned(), self.project.as_str().into());
        map.insert("environment".to_owned(), self.environment.as_str().into());
        if let Some(branch) = &self.branch {
            map.insert("branch".to_owned(), branch.as_str().into());
        }
        map
    }
}

pub fn run(asked: &DeployParameters) -> RunEnd {
    let DeployParameters { project, environment, .. } = asked;
    RunEnd::Blocked {
        reason: format!(
            "nothing was deployed: no deployer is configured, so {project} can't go to \
             {environment}; this release has none to configure: deploy it by other means and \
             cancel this task"
        ),
        question: None,
    }
}
