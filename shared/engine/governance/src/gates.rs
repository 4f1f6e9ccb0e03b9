//! The gates that require approval before a task is assigned.

use serde_json::{Map, Value};
use watchbill_domain::{Priority, TaskType};

use super::{EnvironmentKind, Environments, GateRules, PrioritiesFor};

/// A reason to require approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    Priority(Priority),
    Production(TaskType),
    FeatureFlag,
}

impl Gate {
    /// Text for the approver.
    pub fn reason(&self) -> String {
        match self {
            Gate::Priority(p) => format!("priority {p} waits for a person"),
            Gate::Production(t) => format!("{t} in production waits for a person"),
            Gate::FeatureFlag => "a feature flag would change".to_owned(),
        }
    }
}

/// The gates that apply to a task before it is assigned. `mutates`: whether it may change
/// something.
pub fn asked_gates(
    task_type: TaskType,
    priority: Priority,
    mutates: bool,
    payload: &Map<String, Value>,
    metadata: &Map<String, Value>,
    rules: &GateRules,
    environments: &Environments,
) -> Vec<Gate> {
    let mut gates = Vec::new();
    let meant = mutates || rules.priorities_for == PrioritiesFor::All;
    if rules.priorities.contains(&priority) && meant {
        gates.push(Gate::Priority(priority));
    }
    let production = || environments.aimed_at(payload, metadata) == EnvironmentKind::Production;
    if rules.production.contains(&task_type) && production() {
        gates.push(Gate::Production(task_type));
    }
    let changes_flag = metadata.get("feature_flag_change").is_some_and(is_truthy);
    if rules.feature_flags && changes_flag {
        gates.push(Gate::FeatureFlag);
    }
    gates
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gates(task_type: TaskType, priority: Priority, payload: Value) -> Vec<Gate> {
        let payload = payload.as_object().unwrap().clone();
        asked_gates(
            task_type,
            priority,
            false,
            &payload,
            &Map::new(),
            &GateRules::default(),
            &Environments::default(),
        )
    }

    #[test]
    fn deploys_without_an_environment_count_as_production() {
        let asked = vec![Gate::Production(TaskType::Deploy)];
        assert_eq!(gates(TaskType::Deploy, Priority::P2, json!({})), asked);
        assert_eq!(gates(TaskType::Deploy, Priority::P2, json!({"environment": 7})), asked);
        assert_eq!(gates(TaskType::Deploy, Priority::P2, json!({"environment": "PROD "})), asked);
        assert_eq!(gates(TaskType::Deploy, Priority::P2, json!({"environment": "staging"})), []);
        assert_eq!(gates(TaskType::Monitor, Priority::P2, json!({})), []);
    }

    #[test]
    fn every_gate_that_applies_is_named() {
        let metadata = json!({"feature_flag_change": {"flag": "x"}});
        let asked = asked_gates(
            TaskType::Feature,
            Priority::P0,
            true,
            &Map::new(),
            metadata.as_object().unwrap(),
            &GateRules::default(),
            &Environments::default(),
        );
        assert_eq!(asked.len(), 3);
        let off = asked_gates(
            TaskType::Feature,
            Priority::P0,
            true,
            &Map::new(),
            metadata.as_object().unwrap(),
            &GateRules::off(),
            &Environments::default(),
        );
        assert_eq!(off, []);
    }

    #[test]
    fn the_priority_gate_may_apply_to_mutating_work_only() {
        let asked = |priorities_for, mutates| {
            let rules = GateRules { priorities_for, ..GateRules::default() };
            let (none, environments) = (Map::new(), Environments::default());
            let (of, at) = (TaskType::Monitor, Priority::P0);
            asked_gates(of, at, mutates, &none, &none, &rules, &environments)
        };
        let waits = vec![Gate::Priority(Priority::P0)];
        assert_eq!(asked(PrioritiesFor::All, false), waits);
        assert_eq!(asked(PrioritiesFor::All, true), waits);
        assert_eq!(asked(PrioritiesFor::Mutating, false), []);
        assert_eq!(asked(PrioritiesFor::Mutating, true), waits);
    }
}
