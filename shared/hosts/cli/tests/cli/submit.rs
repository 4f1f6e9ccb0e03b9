//! Tests of `watchbill submit` and `watchbill publish`.

use serde_json::{Value, json};
use watchbill::exit::Exit;

use super::peer::{Peer, Reply, problem, says, task};
use super::world::{Setting, run, run_in};

fn created(task: &Value) -> String {
    json!({"success": true, "task_id": task["task_id"],
           "message": "Task created and assigned to ops", "task": task})
    .to_string()
}

#[test]
fn the_request_is_the_contracts() {
    let answer = created(&task("t1", "assigned", 1));
    let peer = Peer::new(vec![says(200, &answer)]);
    let ran = run(
        &peer.url,
        &[
            "submit",
            "deploy",
            "--payload",
            r#"{"project":"web"}"#,
            "--set",
            "environment=staging",
            "--set",
            "replicas:=2",
            "--priority",
            "P1",
            "--source",
            "ci",
            "--sla-target",
            "900",
            "--parent",
            "t0",
            "--metadata",
            r#"{"ticket":7}"#,
            "--idempotency-key",
            "build-7",
            "--json",
        ],
    );
    assert_eq!((ran.exit, ran.out), (Exit::Fine, format!("{answer}\n")), "to the byte");
    let request = peer.next();
    assert_eq!(request.line(), "POST /tasks");
    assert_eq!(request.header("x-api-key"), Some("wb_test"));
    assert_eq!(request.header("idempotency-key"), Some("build-7"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.json(),
        json!({"type": "deploy", "priority": "P1", "source": "ci", "sla_target": 900,
               "parent_task_id": "t0", "metadata": {"ticket": 7},
               "payload": {"project": "web", "environment": "staging", "replicas": 2}})
    );
}

#[test]
fn a_repeat_bears_the_same_key_and_body() {
    let peer = Peer::new(vec![
        says(500, problem(500, "oops")),
        Reply::Closes,
        says(200, created(&task("t1", "assigned", 1))),
    ]);
    let ran = run(&peer.url, &["submit", "monitor", "--set", "service=api"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    assert!(ran.out.starts_with("Task created and assigned to ops\n"), "{}", ran.out);
    let requests = peer.all();
    assert_eq!(requests.len(), 3);
    let key = requests[0].header("idempotency-key").expect("always a key");
    assert_eq!(key.len(), 36, "{key}");
    for repeat in &requests[1..] {
        assert_eq!(repeat.header("idempotency-key"), Some(key));
        assert_eq!(repeat.body, requests[0].body);
    }
}

#[test]
fn an_unknown_outcome_is_reported_with_the_idempotency_key() {
    let peer = Peer::new((0..5).map(|_| Reply::Closes).collect());
    let ran = run(&peer.url, &["submit", "monitor", "--idempotency-key", "k1"]);
    assert_eq!(ran.exit, Exit::Unreachable);
    assert!(ran.err.contains("--idempotency-key k1"), "{}", ran.err);
}

#[test]
fn a_gate_is_shown_with_the_command_that_approves() {
    let mut gated = task("t1", "pending", 1);
    gated["approval_id"] = json!("approval_t1");
    let peer = Peer::new(vec![says(200, created(&gated))]);
    let setting = Setting { stdin: r#"{"project":"web"}"#, ..Setting::default() };
    let ran = run_in(&peer.url, &["submit", "deploy", "--payload", "-"], setting);
    assert_eq!(ran.exit, Exit::Fine);
    assert!(ran.out.contains("watchbill approve approval_t1"), "{}", ran.out);
    assert_eq!(peer.next().json()["payload"], json!({"project": "web"}));
}

#[test]
fn a_payload_that_is_none_never_leaves_the_machine() {
    let ran = run(&Peer::absent(), &["submit", "deploy", "--payload", "[1]"]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("not a JSON object"), "{}", ran.err);
}

#[test]
fn events_are_published_once() {
    let answer = r#"{"success":true,"event_type":"deploy.started","message":"Event published"}"#;
    let peer = Peer::new(vec![says(200, answer)]);
    let args = [
        "publish",
        "deploy.started",
        "--payload",
        r#"{"id":"d1"}"#,
        "--task",
        "t1",
        "--priority",
        "high",
        "--source",
        "ci",
    ];
    let ran = run(&peer.url, &args);
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Fine, "Event published\n"));
    let request = peer.next();
    assert_eq!(request.line(), "POST /events/publish");
    assert_eq!(
        request.json(),
        json!({"event_type": "deploy.started", "source_agent": "ci", "payload": {"id": "d1"},
               "task_id": "t1", "priority": "high"})
    );
    let peer = Peer::new(vec![Reply::Closes, says(200, answer)]);
    assert_eq!(run(&peer.url, &args).exit, Exit::Unreachable);
    assert_eq!(peer.lines().len(), 1, "it might count twice");
}
