//! Plans from type and payload, with the tools of the catalog.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, Refusal, TaskType};
use watchbill_governance::{
    Operation, OperationRule, Plan, Planner as _, ToolClass, ToolSpec, ToolSpecs,
};
use watchbill_playbook::{effective_type, plan};

fn planned(task_type: TaskType, payload: Value) -> Result<Plan, Refusal> {
    plan(watchbill_catalog::specs(), task_type, payload.as_object().unwrap())
}

#[test]
fn the_payload_table() {
    for (task_type, payload, action, expected) in [
        (
            TaskType::Deploy,
            json!({"project": "shop", "environment": "staging", "branch": "main"}),
            "deploy",
            json!({"project": "shop", "environment": "staging", "branch": "main"}),
        ),
        (
            TaskType::Deploy,
            json!({"project": "shop"}),
            "deploy",
            json!({"project": "shop", "environment": "production"}),
        ),
        (TaskType::Monitor, json!({}), "monitor", json!({"service": "system"})),
        (
            TaskType::Monitor,
            json!({"service": "api", "url": "https://example.com/h", "expected_status": 204}),
            "monitor",
            json!({"service": "api", "services": [{"name": "api",
                "url": "https://example.com/h", "expected_status": [204], "timeout": 10.0}]}),
        ),
        (
            TaskType::Alert,
            json!({"alert_type": "high_cpu", "severity": "warning"}),
            "alert",
            json!({"action": "raise", "alert_type": "high_cpu", "severity": "high",
                "target": "system", "message": "high_cpu"}),
        ),
        (
            TaskType::Alert,
            json!({"severity": "high", "message": "High resource usage", "metrics": {"cpu": 91}}),
            "alert",
            json!({"action": "raise", "alert_type": "system", "severity": "high",
                "target": "system", "message": "High resource usage"}),
        ),
        (TaskType::Investigate, json!({}), "investigate", json!({"issue": "system issue"})),
        (
            TaskType::Alert,
            json!({"alert_id": "a1", "action": "ack"}),
            "alert",
            json!({"action": "ack", "alert_id": "a1"}),
        ),
        (
            TaskType::Investigate,
            json!({"issue": "checkout slow", "time_range": "last 24h"}),
            "investigate",
            json!({"issue": "checkout slow", "time_range": "24h"}),
        ),
    ] {
        let plan = planned(task_type, payload.clone()).unwrap();
        assert_eq!(
            (&*plan.call.tool, Value::from(plan.call.arguments)),
            (action, expected),
            "{payload}"
        );
    }
}

#[test]
fn free_text_alone_is_enough() {
    for (task_type, text, action, expected) in [
        (
            TaskType::Deploy,
            "Deploy latest changes to production",
            None,
            json!("payload.project is missing"),
        ),
        (
            TaskType::Monitor,
            "Deploy shop to staging",
            Some("deploy"),
            json!({"project": "shop", "environment": "staging"}),
        ),
        (
            TaskType::Monitor,
            "Monitor API error rate and alert if >5%",
            Some("monitor"),
            json!({"service": "api", "suggested_rules": [{"name": "high_error_rate",
                "condition": "error_rate > 5%", "severity": "high", "from": "alert if >5%"}]}),
        ),
        (
            TaskType::Investigate,
            "check http://example.com/health, please",
            Some("monitor"),
            json!({"service": "system", "services": [{"name": "example.com",
                "url": "http://example.com/health", "timeout": 10.0}]}),
        ),
        (
            TaskType::Investigate,
            "Analyze error logs from the past hour and identify root causes",
            Some("investigate"),
            json!({"issue": "Analyze error logs from the past hour and identify root causes",
                "time_range": "1h"}),
        ),
        (
            TaskType::Alert,
            "Acknowledge alert 42",
            Some("alert"),
            json!({"action": "ack", "alert_id": "42"}),
        ),
        (
            TaskType::Alert,
            "Raise a critical alert: disk full on db-1",
            Some("alert"),
            json!({"action": "raise", "alert_type": "disk_full", "severity": "critical",
                "target": "db-1", "message": "Raise a critical alert: disk full on db-1"}),
        ),
        (
            TaskType::Alert,
            "resolve the high_cpu alert",
            Some("alert"),
            json!({"action": "resolve", "alert_type": "high_cpu"}),
        ),
        (TaskType::Monitor, "bake a cake", Some("monitor"), json!({"service": "system"})),
    ] {
        match (planned(task_type, json!({ "description": text })), action) {
            (Ok(plan), Some(action)) => {
                assert_eq!(
                    (&*plan.call.tool, Value::from(plan.call.arguments)),
                    (action, expected),
                    "{text}"
                );
            }
            (Err(refusal), None) => {
                let start = expected.as_str().unwrap();
                assert!(refusal.message.starts_with(start), "{text}: {}", refusal.message);
            }
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    for (task_type, payload, named) in [
        (TaskType::Deploy, json!({}), "payload.project is missing"),
        (TaskType::Monitor, json!({"url": 42}), "payload.url is 42"),
        (TaskType::Monitor, json!({"url": "ftp://x"}), "payload.url is \"ftp://x\""),
        (TaskType::Monitor, json!({"url": "tcp://db"}), "payload.url is \"tcp://db\""),
        (TaskType::Monitor, json!({"services": [{"name": "x"}]}), "payload.services[0].url"),
        (TaskType::Monitor, json!({"url": "http://x", "timeout": "soon"}), "payload.timeout"),
        (TaskType::Alert, json!({"alert_type": "x", "severity": "awful"}), "payload.severity"),
        (TaskType::Alert, json!({"action": "ack"}), "payload.alert_id is missing"),
        (TaskType::Alert, json!({"action": "dance", "alert_id": "a"}), "payload.action"),
        (TaskType::Investigate, json!({"issue": "x", "time_range": "soon"}), "payload.time_range"),
        (TaskType::Faq, json!({"question": "x"}), "the ops agent handles"),
    ] {
        let refusal = planned(task_type, payload.clone()).unwrap_err();
        assert!(refusal.message.starts_with(named), "{payload}: {}", refusal.message);
    }
}

proptest! {
    #[test]
    fn any_text_gives_the_same_plan_twice(text in ".{0,200}", n in 0_usize..4) {
        let types = [TaskType::Deploy, TaskType::Monitor, TaskType::Alert, TaskType::Investigate];
        let payload = json!({ "description": text });
        prop_assert_eq!(planned(types[n], payload.clone()), planned(types[n], payload));
    }
}

fn gate_type(task_type: TaskType, payload: Value) -> TaskType {
    watchbill_catalog::planner().plan(Agent::Ops, task_type, payload.as_object().unwrap()).gate_type
}

#[test]
fn a_text_that_asks_for_a_deployment_is_gated_as_one() {
    let text = json!({ "description": "Deploy latest changes to production" });
    assert_eq!(gate_type(TaskType::Monitor, text), TaskType::Deploy);
    let text = json!({ "description": "Check how the api is doing", "service": "api" });
    assert_eq!(gate_type(TaskType::Monitor, text), TaskType::Monitor);
    assert_eq!(gate_type(TaskType::Bugfix, json!({ "description": "Deploy" })), TaskType::Bugfix);
}

#[test]
fn a_plan_is_gated_as_its_tool_says_whatever_the_tool_is_called() {
    static RESTART: ToolSpec = ToolSpec {
        name: "restart",
        description: "restarts a service",
        class: ToolClass::Mutating,
        operation: OperationRule::Always(Operation::DeployProd),
        gate_type: TaskType::Deploy,
        schema: || json!({ "type": "object" }),
        normalize: |fields| Ok(fields.map.clone()),
    };
    let specs = ToolSpecs::new([&RESTART]).unwrap();
    let plan = Plan { call: RESTART.call(Map::new()), reason: "it hangs".into() };
    let gate_type = effective_type(&specs, &Ok(plan), TaskType::Monitor, &Map::new());
    assert_eq!(gate_type, TaskType::Deploy);
}

#[test]
fn the_plan_shows_what_would_run() {
    let payload = json!({ "project": "shop", "environment": "staging" });
    let plan = watchbill_catalog::planner().plan(
        Agent::Ops,
        TaskType::Deploy,
        payload.as_object().unwrap(),
    );
    let plan = plan.document;
    assert_eq!(plan["action"], "deploy");
    assert_eq!(plan["parameters"]["environment"], "staging");
}
