//! Tests of `--wait`.

use std::time::Duration;

use serde_json::json;
use watchbill::exit::Exit;
use watchbill::out::Terminal;

use super::peer::{Peer, Reply, got, problem, says, task};
use super::world::{Setting, run, run_in};

const ID: &str = "0199f5a0-0000-7000-8000-000000000001";

fn created() -> Reply {
    let task = task(ID, "assigned", 1);
    says(200, json!({"success": true, "task_id": ID, "message": "Task created", "task": task}))
}

#[test]
fn from_submission_to_the_result() {
    let mut done = task(ID, "completed", 3);
    done["started_at"] = json!("2026-01-31T07:57:10.000Z");
    done["completed_at"] = json!("2026-01-31T07:58:00.000Z");
    done["metadata"] = json!({"result": {"success": true, "url": "https://web.example"}});
    let peer = Peer::new(vec![
        created(),
        got(&task(ID, "assigned", 1)),
        got(&task(ID, "in_progress", 2)),
        got(&done),
    ]);
    let ran = run(&peer.url, &["submit", "deploy", "--wait"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    assert_eq!(
        peer.lines(),
        [
            "POST /tasks".to_owned(),
            format!("GET /tasks/{ID}"),
            format!("GET /tasks/{ID}?version=1&wait=20"),
            format!("GET /tasks/{ID}?version=2&wait=20"),
        ],
        "the server is asked to respond when something has changed"
    );
    assert_eq!(
        ran.err,
        format!(
            "Task created ({ID})\n{ID} assigned · ops after 0s\n{ID} in_progress · ops after 0s\n"
        ),
        "plain lines without a terminal"
    );
    assert!(
        ran.out.contains("finished  2026-01-31 07:58:00 UTC (2m ago), took 50s"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains(r#"      "url": "https://web.example""#), "{}", ran.out);
}

#[test]
fn each_end_has_its_code() {
    let gated = |status: &str| {
        let mut task = task(ID, status, 2);
        task["approval_id"] = json!("approval_1");
        task
    };
    for (end, exit, says) in [
        (task(ID, "failed", 2), Exit::TaskFailed, "failed"),
        (task(ID, "cancelled", 2), Exit::TaskFailed, "cancelled"),
        (task(ID, "blocked", 2), Exit::StillWaiting, "needs a person (blocked)"),
        (gated("blocked"), Exit::StillWaiting, "needs a person (blocked)"),
        (gated("pending"), Exit::StillWaiting, "needs a person (pending)"),
    ] {
        let body = json!({"success": true, "task_id": ID, "task": end}).to_string();
        let peer = Peer::new(vec![super::peer::says(200, &body)]);
        let ran = run(&peer.url, &["get", ID, "--wait", "--json"]);
        assert_eq!((ran.exit, ran.out), (exit, format!("{body}\n")), "{says}");
        assert!(ran.err.contains(says), "{}", ran.err);
    }
}

#[test]
fn time_runs_out_and_the_task_goes_on() {
    let open = || got(&task(ID, "in_progress", 2));
    let peer = Peer::new((0..50).map(|_| open()).collect());
    let ran = run(&peer.url, &["get", ID, "--wait", "--timeout", "30s"]);
    assert_eq!(ran.exit, Exit::StillWaiting);
    assert_eq!(ran.slept.iter().sum::<Duration>(), Duration::from_secs(30));
    assert!(ran.err.contains("still in_progress after 30s"), "{}", ran.err);
    let looks = peer.lines().len();
    assert!(looks < 20, "{looks} looks at a server that does not hold calls");
}

#[test]
fn through_an_approval_and_a_restart() {
    let mut gated = task(ID, "pending", 1);
    gated["approval_id"] = json!("approval_1");
    let peer = Peer::new(vec![
        got(&gated),
        Reply::Closes,
        says(503, problem(503, "starting")),
        got(&task(ID, "completed", 5)),
    ]);
    let ran = run(&peer.url, &["get", ID, "--wait", "--through-approval"]);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    assert!(ran.err.contains("watchbill approve approval_1"), "{}", ran.err);
    assert!(ran.err.contains("server not reachable"), "{}", ran.err);
}

#[test]
fn a_terminal_gets_one_line_that_is_wiped_at_the_end() {
    let peer = Peer::new(vec![got(&task(ID, "in_progress", 2)), got(&task(ID, "completed", 3))]);
    let terminal = Terminal { columns: None, error_columns: Some(24), no_color: false };
    let setting = Setting { terminal, ..Setting::default() };
    let ran = run_in(&peer.url, &["get", ID, "--wait"], setting);
    assert_eq!(ran.exit, Exit::Fine);
    assert!(ran.err.starts_with("\r\u{1b}[2K| 0s · in_progress · o…\r"), "{:?}", ran.err);
    assert!(ran.err.ends_with("\r\u{1b}[2K") && !ran.err.contains('\n'), "{:?}", ran.err);
}

#[test]
fn ctrl_c_leaves_the_task_alone() {
    let peer = Peer::new(vec![created(), Reply::Holds]);
    let interrupt =
        || -> futures_util::future::BoxFuture<'static, ()> { Box::pin(std::future::ready(())) };
    let setting = Setting { interrupt, ..Setting::default() };
    let ran = run_in(&peer.url, &["submit", "deploy", "--wait"], setting);
    assert_eq!(ran.exit, Exit::Interrupted);
    assert!(ran.err.contains(&format!("task {ID} continues: watchbill get {ID}")), "{}", ran.err);
    assert!(!peer.lines().iter().any(|line| line.contains("cancel")));
}
