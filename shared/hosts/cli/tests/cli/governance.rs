//! Tests of the commands for agents, budget, freezes and approvals.

use serde_json::{Value, json};
use watchbill::exit::Exit;

use super::peer::{Peer, got, problem, says, task};
use super::world::run;

fn agent() -> Value {
    json!({
        "agent": "ops", "name": "ops_agent", "built": true, "status": "running",
        "tasks": {"completed": 3}, "score": 102.5, "level": "staging_access",
        "next_level": "prod_low_risk", "points_to_next": 27.5,
        "allowed_operations": ["run_tests", "deploy_staging"],
        "last_heartbeat": "2026-01-31T07:57:00.000Z", "of_a_later_version": 1,
    })
}

#[test]
fn agents_are_listed_and_shown() {
    let list = json!({"success": true, "count": 1, "agents": [agent()]}).to_string();
    let one = json!({"success": true, "agent": agent()}).to_string();
    let peer = Peer::new(vec![says(200, list), says(200, &one), says(200, &one)]);
    let ran = run(&peer.url, &["agents"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    assert!(ran.out.contains("102.5") && ran.out.contains("staging_access"), "{}", ran.out);
    let ran = run(&peer.url, &["agents", "show", "ops_agent"]);
    for part in [
        "ops_agent",
        "score     102.5",
        "level     staging_access",
        "next      prod_low_risk, in 27.5 points",
        "allowed   run_tests, deploy_staging",
    ] {
        assert!(ran.out.contains(part), "{part} is not in: {}", ran.out);
    }
    let ran = run(&peer.url, &["agents", "show", "ops", "--json"]);
    assert_eq!(ran.out, format!("{one}\n"));
    assert_eq!(peer.lines(), ["GET /agents", "GET /agents/ops_agent", "GET /agents/ops"]);
}

#[test]
fn what_changed_a_score_is_a_table() {
    let events = json!([
        {"event": "task_failure", "delta": -3, "reason": "it\nbroke", "task_id": "t2",
         "trace_id": "x", "at": "2026-01-31T07:57:00.000Z"},
        {"event": "task_success", "delta": 2, "reason": null, "task_id": "t1",
         "trace_id": "x", "at": "2026-01-31T07:56:00.000Z"},
    ]);
    let page = json!({"success": true, "agent": "ops", "count": 2, "events": events});
    let empty = json!({"success": true, "agent": "dev", "count": 0, "events": []});
    let peer = Peer::new(vec![says(200, page), says(200, empty)]);
    let ran = run(&peer.url, &["agents", "events", "ops", "--limit", "2"]);
    let rows: Vec<&str> = ran.out.lines().collect();
    assert_eq!(rows.len(), 3, "{}", ran.out);
    assert!(rows[1].contains("-3") && rows[1].contains("it broke"), "{}", ran.out);
    assert!(rows[2].contains("+2") && rows[2].contains("task_success"), "{}", ran.out);
    let ran = run(&peer.url, &["agents", "events", "dev"]);
    assert_eq!(ran.out, "no score changes yet\n");
    assert_eq!(peer.lines(), ["GET /agents/ops/events?limit=2", "GET /agents/dev/events?limit=25"]);
}

fn budget() -> String {
    let period = |percent: u64, status: &str| {
        json!({
            "used": {"usd": 0.8, "tokens": 1200}, "reserved": {"usd": 0.0, "tokens": 0},
            "limit": {"usd": 1.0, "tokens": 20000}, "percent": percent, "status": status,
            "resets_at": "2026-01-31T09:00:00.000Z",
        })
    };
    let task = json!({"limit": {"usd": 0.5, "tokens": 10000}});
    let whole = json!({
        "success": true, "day": period(16, "ok"), "hour": period(80, "warning"), "task": task,
    });
    whole.to_string()
}

#[test]
fn a_budget_is_shown_and_set() {
    let peer = Peer::new(vec![says(200, budget()), says(200, budget())]);
    let ran = run(&peer.url, &["budget"]);
    let rows: Vec<&str> = ran.out.lines().collect();
    assert_eq!((ran.exit, rows.len()), (Exit::Fine, 4), "{}{}", ran.out, ran.err);
    assert!(rows[2].contains("hour") && rows[2].contains("0.80 USD, 1200 tokens"), "{}", ran.out);
    assert!(rows[2].contains("80 %") && rows[2].contains("warning"), "{}", ran.out);
    let ran = run(&peer.url, &["budget", "set", "--day-usd", "2.50", "--task-tokens", "7"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    let asked = peer.all();
    assert_eq!([asked[0].line(), asked[1].line()], ["GET /budget", "PUT /budget/limits"]);
    let body: Value = serde_json::from_str(&asked[1].body).unwrap();
    assert_eq!(body, json!({"day_usd": 2.5, "task_tokens": 7}));
}

#[test]
fn a_budget_without_a_limit_sends_nothing() {
    let peer = Peer::new(vec![]);
    let ran = run(&peer.url, &["budget", "set"]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("--day-usd 5"), "{}", ran.err);
    assert!(peer.lines().is_empty());
}

#[test]
fn a_freeze_is_passed_with_a_reason() {
    let said =
        json!({"success": true, "message": "Freeze 'year-end' overridden for this task by root"});
    let refused = problem(403, "'bob' may not override freeze 'year-end'");
    let peer = Peer::new(vec![says(200, said), says(403, refused)]);
    let words = ["override", "t1", "--freeze", "year-end", "--reason", "the fix"];
    let ran = run(&peer.url, &words);
    assert_eq!(
        (ran.exit, ran.out.as_str()),
        (Exit::Fine, "Freeze 'year-end' overridden for this task by root\n")
    );
    assert_eq!(run(&peer.url, &words).exit, Exit::Refused);
    let asked = peer.all();
    let body: Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(body, json!({"freeze": "year-end", "reason": "the fix"}));
    assert_eq!([asked[0].line(), asked[1].line()], ["POST /tasks/t1/override"; 2]);
}

fn approval(more: Value) -> Value {
    let mut approval = json!({
        "approval_id": "approval_t1", "task_id": "t1", "status": "pending",
        "summary": "Deploy shop to production\u{1b}[2J", "reasons": ["production needs leave"],
        "plan": {}, "plan_hash": "ab12", "requested_by": "ci",
        "requested_at": "2026-01-31T08:00:00.000Z", "expires_at": "2026-02-01T08:00:00.000Z",
        "approved_by": null, "rejected_by": null, "decided_at": null, "reason": null,
        "trace_id": "trace", "version": 2, "quorum": 2,
        "shown": {"type": "deploy", "target": {"project": "shop"}},
    });
    approval
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    json!({"success": true, "approval": approval})
}

#[test]
fn an_approval_is_shown_as_it_is_decided_on() {
    let mut waiting = task("t1", "pending", 2);
    waiting["approval_id"] = "approval_t1".into();
    let peer = Peer::new(vec![got(&waiting), says(200, approval(json!({})))]);
    let ran = run(&peer.url, &["approvals", "show", "t1"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    for part in
        ["production needs leave", "0 of 2", "project: shop", "watchbill approve approval_t1"]
    {
        assert!(ran.out.contains(part), "{part} is not in: {}", ran.out);
    }
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
    assert_eq!(peer.lines(), ["GET /tasks/t1", "GET /approvals/approval_t1"]);
}

#[test]
fn an_approval_of_another_schema_is_shown_in_the_servers_text() {
    let odd = approval(json!({"status": "pondered", "text": "All of it\u{7}\nline two"}));
    let peer = Peer::new(vec![says(200, odd)]);
    let ran = run(&peer.url, &["approvals", "show", "approval_t1"]);
    assert_eq!(ran.out, "All of it \nline two\n");
}
