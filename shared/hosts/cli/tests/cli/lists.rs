//! Tests of lists, tables and JSON output.

use serde_json::{Value, json};
use watchbill::exit::Exit;
use watchbill::out::Terminal;

use super::peer::{Peer, Reply, got, problem, says, task};
use super::world::{Setting, run, run_in};

fn page(ids: std::ops::Range<u32>, next: Option<&str>) -> String {
    let tasks: Vec<Value> = ids.map(|n| task(&format!("t{n}"), "completed", 3)).collect();
    json!({"success": true, "count": tasks.len(), "tasks": tasks, "next_cursor": next}).to_string()
}

#[test]
fn filters_go_out_and_a_page_comes_back_to_the_byte() {
    let body = page(0..2, Some("c1"));
    let peer = Peer::new(vec![says(200, &body)]);
    let ran = run(
        &peer.url,
        &[
            "list",
            "--json",
            "--status",
            "completed",
            "--agent",
            "ops",
            "--type",
            "deploy",
            "--priority",
            "P1",
            "--source",
            "a b",
            "--parent",
            "t9",
            "--limit",
            "2",
        ],
    );
    assert_eq!((ran.exit, ran.out), (Exit::Fine, format!("{body}\n")));
    assert_eq!(
        peer.lines(),
        ["GET /tasks?status=completed&assigned_to=ops&type=deploy&priority=P1&source=a+b\
          &parent=t9&limit=2"]
    );
}

#[test]
fn all_follows_the_cursors_into_one_document() {
    let peer = Peer::new(vec![
        says(200, page(0..2, Some("c 1"))),
        says(200, page(2..4, Some("c2"))),
        says(200, page(4..5, None)),
    ]);
    let ran = run(&peer.url, &["list", "--all", "--json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((document["count"].as_u64(), &document["next_cursor"]), (Some(5), &Value::Null));
    assert_eq!(document["tasks"][4], task("t4", "completed", 3), "unknown fields too");
    assert_eq!(
        peer.lines(),
        [
            "GET /tasks?limit=200",
            "GET /tasks?limit=200&cursor=c+1",
            "GET /tasks?limit=200&cursor=c2",
        ]
    );
}

#[test]
fn a_table_for_people_that_fits() {
    let script = || vec![says(200, page(0..2, Some("more")))];
    let peer = Peer::new(script());
    let ran = run(&peer.url, &["list", "--limit", "2"]);
    assert_eq!(
        ran.out,
        "ID  STATUS     PRIO  TYPE    AGENT  AGE  TITLE\n\
         t0  completed  P1    deploy  ops    3m   deploy web to staging\n\
         t1  completed  P1    deploy  ops    3m   deploy web to staging\n"
    );
    assert!(ran.err.contains("there are more"), "{}", ran.err);
    let peer = Peer::new(script());
    let terminal = Terminal { columns: Some(50), error_columns: None, no_color: true };
    let ran =
        run_in(&peer.url, &["list", "--limit", "2"], Setting { terminal, ..Setting::default() });
    assert!(ran.out.contains("t1  completed  P1    3m   deploy web to staging\n"), "{}", ran.out);
    let peer = Peer::new(vec![says(200, page(0..0, None))]);
    assert_eq!(run(&peer.url, &["list"]).out, "no tasks\n");
}

#[test]
fn an_id_is_one_segment_whatever_it_holds() {
    let peer = Peer::new(vec![got(&task("a/b c?d", "failed", 2))]);
    assert_eq!(run(&peer.url, &["get", "a/b c?d"]).exit, Exit::Fine);
    assert_eq!(peer.lines(), ["GET /tasks/a%2Fb%20c%3Fd"]);
    for base in ["prod", "prod/"] {
        let peer = Peer::new(vec![got(&task("t1", "failed", 2))]);
        run(&format!("{}/{base}", peer.url), &["get", "t1"]);
        assert_eq!(peer.lines(), ["GET /prod/tasks/t1"]);
    }
}

#[test]
fn a_tasks_text_can_not_control_the_terminal() {
    let mut evil = task("t1", "failed", 2);
    evil["error"] = json!("\u{1b}]0;owned\u{7} no\nid fake");
    evil["payload"] = json!({"description": "a\u{9b}31m\u{202e}b"});
    let peer = Peer::new(vec![got(&evil)]);
    let ran = run(&peer.url, &["get", "t1"]);
    assert!(!ran.out.chars().any(|c| c != '\n' && c.is_control()), "{:?}", ran.out);
    assert!(ran.out.contains(" ]0;owned  no id fake\n"), "{:?}", ran.out);
}

#[test]
fn approvals_by_their_own_id_or_the_tasks() {
    let decided = || {
        says(200, r#"{"success":true,"approval_id":"approval_t1_2","message":"Approved by ann"}"#)
    };
    let peer = Peer::new(vec![decided()]);
    let ran = run(&peer.url, &["approve", "approval_t1_2"]);
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Fine, "Approved by ann\n"));
    assert_eq!(peer.lines(), ["POST /approvals/approval_t1_2/approve"]);

    let mut waiting = task("t1", "blocked", 4);
    waiting["approval_id"] = json!("approval_t1_2");
    let peer = Peer::new(vec![got(&waiting), decided()]);
    assert_eq!(run(&peer.url, &["reject", "t1", "--reason", "too late"]).exit, Exit::Fine);
    assert_eq!(
        peer.lines(),
        ["GET /tasks/t1", "POST /approvals/approval_t1_2/reject?reason=too+late"]
    );

    let peer = Peer::new(vec![got(&task("t1", "in_progress", 4))]);
    let ran = run(&peer.url, &["approve", "t1"]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("in_progress and waits for no approval"), "{}", ran.err);
}

#[test]
fn approvals_that_wait_and_that_were_decided() {
    let approval = json!({"approval_id": "approval_t1", "task_id": "t1", "status": "pending",
        "summary": "deploy web", "requested_by": "ci", "requested_at": "2026-01-31T07:00:00Z",
        "expires_at": "2026-02-01T07:00:00Z"});
    let list = json!({"success": true, "count": 1, "approvals": [approval]});
    let mut decided = approval;
    decided["status"] = json!("rejected");
    decided["rejected_by"] = json!("ann");
    decided["reason"] = json!("too late");
    decided["decided_at"] = json!("2026-01-31T07:58:00Z");
    let history = json!({"success": true, "count": 1, "history": [decided]});
    let peer = Peer::new(vec![says(200, list), says(200, history)]);
    let ran = run(&peer.url, &["approvals"]);
    assert_eq!(
        ran.out,
        "APPROVAL     REQUESTED  EXPIRES  BY  SUMMARY\n\
         approval_t1  1h ago     in 23h   ci  deploy web\n"
    );
    let ran = run(&peer.url, &["approvals", "--history", "--limit", "5"]);
    assert_eq!(
        ran.out,
        "APPROVAL     STATUS    WHEN    BY   REASON\n\
         approval_t1  rejected  2m ago  ann  too late\n"
    );
    assert_eq!(peer.lines(), ["GET /approvals/pending", "GET /approvals/history?limit=5"]);
}

#[test]
fn answers_retries_and_the_timeline() {
    let changed = || says(200, r#"{"success":true,"task_id":"t1","status":"assigned"}"#);
    let timeline = json!({"success": true, "task_id": "t1", "count": 2, "timeline": [
        {"at": "2026-01-31T07:57:00Z", "kind": "change", "what": "created", "by": "ci",
         "text": "assigned to ops", "version": 1},
        {"at": "2026-01-31T07:57:01Z", "kind": "event", "what": "task.created", "by": null,
         "text": ""}]});
    let peer = Peer::new(vec![changed(), changed(), changed(), says(200, timeline)]);
    assert_eq!(run(&peer.url, &["answer", "t1", "use web"]).out, "t1 assigned\n");
    assert_eq!(run(&peer.url, &["answer", "t1", "web", "--choice"]).exit, Exit::Fine);
    assert_eq!(run(&peer.url, &["retry", "t1"]).exit, Exit::Fine);
    let ran = run(&peer.url, &["timeline", "t1"]);
    assert_eq!(
        ran.out,
        "2026-01-31 07:57:00  change  created       by ci  assigned to ops\n\
         2026-01-31 07:57:01  event   task.created\n"
    );
    let requests = peer.all();
    assert_eq!(requests[0].json(), json!({"text": "use web"}));
    assert_eq!(requests[1].json(), json!({"choice": "web"}));
    let lines: Vec<String> = requests.iter().map(|request| request.line()).collect();
    assert_eq!(
        lines[1..],
        ["POST /tasks/t1/answer", "POST /tasks/t1/retry", "GET /tasks/t1/timeline"]
    );
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let made = json!({"success": true, "key": "wb_secret", "name": "ci", "role": "agent"});
    let keys = json!({"success": true, "count": 1, "keys": [{"name": "ci", "role": "agent",
        "prefix": "wb_se", "created_at": "2026-01-30T08:00:00Z", "created_by": "admin",
        "revoked_at": "2026-01-31T07:59:00Z"}]});
    let gone = json!({"success": true, "name": "ci"});
    let peer = Peer::new(vec![says(200, made), says(200, keys), says(200, gone)]);
    let ran = run(&peer.url, &["keys", "create", "--name", "ci", "--role", "agent"]);
    assert_eq!(ran.out, "wb_secret\n", "only the key, so that it can be redirected into a file");
    assert!(ran.err.contains("shown only once"), "{}", ran.err);
    assert_eq!(
        run(&peer.url, &["keys", "list"]).out,
        "NAME  ROLE   KEY    STATE           CREATED  BY\n\
         ci    agent  wb_se  revoked 1m ago  1d ago   admin\n"
    );
    assert_eq!(run(&peer.url, &["keys", "revoke", "ci"]).out, "ci is revoked\n");
    let requests = peer.all();
    assert_eq!(requests[0].json(), json!({"name": "ci", "role": "agent"}));
    assert_eq!(requests[2].line(), "DELETE /keys/ci");
}

#[test]
fn stats_agents_health_and_openapi_are_shown() {
    let stats = json!({"queue": {"pending_tasks": 2, "processing_tasks": 1, "total_tasks": 3},
        "timestamp": "2026-01-31T08:00:00Z",
        "by_agent": {"ops": {"assigned": 2}, "dev": {"failed": 1}}});
    let agents = json!({"success": true, "count": 1, "agents": [{"agent": "ops",
        "name": "ops_agent", "status": "running", "built": true, "tasks": {"assigned": 2}}]});
    let health = json!({"status": "healthy", "redis": "disabled"});
    let openapi = r#"{"openapi": "3.1.0" }"#;
    let peer = Peer::new(vec![
        says(200, stats),
        says(200, agents),
        says(200, health),
        says(200, openapi),
        says(503, json!({"status": "unhealthy", "redis": "disabled", "detail": "store is down"})),
    ]);
    assert_eq!(
        run(&peer.url, &["stats"]).out,
        "by_agent\n  dev  failed 1\n  ops  assigned 2\n\
         queue      pending_tasks 2 · processing_tasks 1 · total_tasks 3\n\
         timestamp  2026-01-31T08:00:00Z\n"
    );
    assert_eq!(
        run(&peer.url, &["agents"]).out,
        "AGENT  NAME       STATUS   BUILT  TASKS\nops    ops_agent  running  yes    assigned 2\n"
    );
    assert_eq!(run(&peer.url, &["health"]).out, "redis   disabled\nstatus  healthy\n");
    assert_eq!(run(&peer.url, &["openapi"]).out, format!("{openapi}\n"));
    let ran = run(&peer.url, &["health"]);
    assert_eq!(ran.exit, Exit::Server);
    assert!(ran.out.contains("status  unhealthy"), "{}", ran.out);
    assert!(ran.err.contains("store is down (503)"), "{}", ran.err);
    let paths = ["/stats", "/agents", "/health", "/openapi.json", "/health"];
    assert_eq!(peer.lines(), paths.map(|path| format!("GET {path}")), "health is requested once");
}

#[test]
fn every_command_passes_the_servers_document_on() {
    let body = "{\"success\": true,\n \"odd\":  [1,2] }";
    for args in [
        &["get", "t1"][..],
        &["list"],
        &["approve", "approval_1"],
        &["reject", "approval_1", "--reason", "x"],
        &["approvals"],
        &["approvals", "--history"],
        &["answer", "t1", "yes"],
        &["cancel", "t1"],
        &["retry", "t1"],
        &["timeline", "t1"],
        &["publish", "a.b"],
        &["submit", "faq"],
        &["stats"],
        &["agents"],
        &["health"],
        &["openapi"],
        &["keys", "create", "--name", "n", "--role", "user"],
        &["keys", "list"],
        &["keys", "revoke", "n"],
    ] {
        let peer = Peer::new(vec![says(200, body)]);
        let ran = run(&peer.url, &[&["--json"], args].concat());
        assert_eq!((ran.exit, ran.out), (Exit::Fine, format!("{body}\n")), "{args:?}");
        let peer = Peer::new(vec![says(404, problem(404, "gone"))]);
        assert_eq!(run(&peer.url, args).exit, Exit::NotFound, "{args:?}");
        let peer = Peer::new(vec![Reply::Closes; 5]);
        assert_eq!(run(&peer.url, args).exit, Exit::Unreachable, "{args:?}");
    }
}
