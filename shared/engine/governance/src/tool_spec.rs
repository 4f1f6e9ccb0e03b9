//! Specification of a tool: data that playbook, policy, model and documentation read.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use watchbill_domain::{Fields, Refusal, TaskType, ToolCall};

use super::{EnvironmentKind, Operation};

/// A tool. Only tools that are registered in [`ToolSpecs`] can be called.
#[derive(Debug)]
pub struct ToolSpec {
    /// The name in policies and plans: lower-case words joined by `_`.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub description: &'static str,
    pub class: ToolClass,
    pub operation: OperationRule,
    /// A task whose plan calls this tool is gated as this type, whatever its own type is: a
    /// text that asks for a deployment meets the gates of deployments.
    pub gate_type: TaskType,
    /// JSON Schema of its arguments.
    pub schema: fn() -> Value,
    /// Checks arguments and returns their canonical form, which approvals are bound to.
    pub normalize: fn(Fields<'_>) -> Result<Map<String, Value>, Refusal>,
}

/// Whether a call can change anything other than Watchbill's own records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolClass {
    /// It only reads, or changes only Watchbill's own records.
    Safe,
    Mutating,
}

/// Which operation a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationRule {
    Always(Operation),
    ByEnvironment {
        production: Operation,
        /// In production, if the task changes only documentation or user interface.
        low_risk: Operation,
        staging: Operation,
        sandbox: Operation,
    },
}

impl OperationRule {
    pub fn of(self, environment: EnvironmentKind, is_low_risk: bool) -> Operation {
        match self {
            Self::Always(operation) => operation,
            Self::ByEnvironment { production, low_risk, staging, sandbox } => match environment {
                EnvironmentKind::Production if is_low_risk => low_risk,
                EnvironmentKind::Production => production,
                EnvironmentKind::Staging => staging,
                EnvironmentKind::Sandbox => sandbox,
            },
        }
    }

    fn all(self) -> Vec<Operation> {
        match self {
            Self::Always(operation) => vec![operation],
            Self::ByEnvironment { production, low_risk, staging, sandbox } => {
                vec![production, low_risk, staging, sandbox]
            }
        }
    }
}

impl ToolSpec {
    pub fn is_mutating(&self) -> bool {
        self.class == ToolClass::Mutating
    }

    /// A call with arguments in canonical form.
    pub fn call(&self, arguments: Map<String, Value>) -> ToolCall {
        ToolCall { tool: self.name.to_owned(), arguments, mutating: self.is_mutating() }
    }
}

/// The registered tools, by name.
#[derive(Clone, Debug, Default)]
pub struct ToolSpecs(BTreeMap<&'static str, &'static ToolSpec>);

/// Why a list of tools can't be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToolSpec {
    #[error("two tools are named '{0}': rename one of them")]
    Twice(&'static str),
    #[error("'{0}' is not a tool name: use lower-case letters, digits and '_'")]
    Name(&'static str),
    #[error(
        "tool '{tool}' is {class:?}, which contradicts its operation '{operation}': change its \
         class, or give it an operation of its own"
    )]
    Operation { tool: &'static str, class: ToolClass, operation: Operation },
}

impl ToolSpecs {
    pub const NONE: Self = Self(BTreeMap::new());

    /// Refuses duplicate or malformed names, and a class that its operations contradict, so
    /// that no mutating call is treated as a reading one.
    pub fn new(specs: impl IntoIterator<Item = &'static ToolSpec>) -> Result<Self, BadToolSpec> {
        let mut all = BTreeMap::new();
        for spec in specs {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if spec.name.is_empty() || !spec.name.chars().all(fits) {
                return Err(BadToolSpec::Name(spec.name));
            }
            let operations = spec.operation.all();
            let other = operations.into_iter().find(|o| o.mutates() != spec.is_mutating());
            if let Some(operation) = other {
                let (tool, class) = (spec.name, spec.class);
                return Err(BadToolSpec::Operation { tool, class, operation });
            }
            if all.insert(spec.name, spec).is_some() {
                return Err(BadToolSpec::Twice(spec.name));
            }
        }
        Ok(Self(all))
    }

    pub fn get(&self, name: &str) -> Option<&'static ToolSpec> {
        self.0.get(name).copied()
    }

    /// Tools in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &'static ToolSpec> + '_ {
        self.0.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const fn spec(name: &'static str, class: ToolClass, operation: Operation) -> ToolSpec {
        ToolSpec {
            name,
            description: "a tool of a test",
            class,
            operation: OperationRule::Always(operation),
            gate_type: TaskType::Monitor,
            schema: || json!({ "type": "object" }),
            normalize: |fields| Ok(fields.map.clone()),
        }
    }

    static READS: ToolSpec = spec("monitor", ToolClass::Safe, Operation::MonitorSystem);
    static TWICE: ToolSpec = spec("monitor", ToolClass::Safe, Operation::RunTests);
    static HIDDEN: ToolSpec = spec("wipe", ToolClass::Safe, Operation::Update);
    static HARMLESS: ToolSpec = spec("look", ToolClass::Mutating, Operation::AnswerQuestion);
    static SPOKEN: ToolSpec = spec("Restart it", ToolClass::Mutating, Operation::Restart);

    #[test]
    fn what_governance_could_misread_is_not_registered() {
        assert!(ToolSpecs::new([&READS]).unwrap().get("monitor").is_some());
        let refused = |specs: &[&'static ToolSpec]| ToolSpecs::new(specs.iter().copied());
        assert_eq!(refused(&[&READS, &TWICE]).unwrap_err(), BadToolSpec::Twice("monitor"));
        assert_eq!(refused(&[&SPOKEN]).unwrap_err(), BadToolSpec::Name("Restart it"));
        for (wrong, operation) in
            [(&HIDDEN, Operation::Update), (&HARMLESS, Operation::AnswerQuestion)]
        {
            let (tool, class) = (wrong.name, wrong.class);
            let expected = BadToolSpec::Operation { tool, class, operation };
            assert_eq!(refused(&[wrong]).unwrap_err(), expected);
        }
    }

    #[test]
    fn the_environment_decides_the_operation() {
        use Operation::{DeployProd, DeployProdLowRisk, DeploySandbox, DeployStaging};
        let rule = OperationRule::ByEnvironment {
            production: DeployProd,
            low_risk: DeployProdLowRisk,
            staging: DeployStaging,
            sandbox: DeploySandbox,
        };
        for (environment, low_risk, expected) in [
            (EnvironmentKind::Production, false, DeployProd),
            (EnvironmentKind::Production, true, DeployProdLowRisk),
            (EnvironmentKind::Staging, true, DeployStaging),
            (EnvironmentKind::Sandbox, false, DeploySandbox),
        ] {
            assert_eq!(rule.of(environment, low_risk), expected);
        }
    }
}
