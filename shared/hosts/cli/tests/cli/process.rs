//! Tests that need a real process: exit codes, signals, environment.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use watchbill::exit::EXIT_CODES;

use super::peer::{Peer, Reply, problem, says, task};

fn watchbill(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchbill"));
    command.env_clear().env("WATCHBILL_URL", url).stdin(Stdio::null());
    command
}

fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_documents_the_exit_codes_and_the_key_file() {
    let (code, help, _) = ran(watchbill("http://127.0.0.1:1").arg("--help"));
    assert_eq!(code, Some(0));
    for (exit, meaning) in EXIT_CODES {
        let row = format!("{}  {meaning}", *exit as u8);
        assert!(help.contains(&row), "{row} is not in:\n{help}");
    }
    assert!(help.contains("admin.key"), "{help}");
    assert!(help.contains("Without a command it runs the server"), "{help}");
}

#[test]
fn completions_for_the_usual_shells() {
    for (shell, says) in
        [("bash", "complete"), ("zsh", "#compdef watchbill"), ("fish", "complete -c")]
    {
        let (code, script, _) = ran(watchbill("http://127.0.0.1:1").args(["completions", shell]));
        assert_eq!(code, Some(0), "{shell}");
        assert!(script.contains(says) && script.contains("through-approval"), "{shell}");
    }
}

#[test]
fn codes_reach_the_shell() {
    for args in [&["get"][..], &["no-such-command"], &["get", ".."], &["list", "--limit", "0"]] {
        let (code, _, err) = ran(watchbill("http://127.0.0.1:1").args(args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
    }
    let (code, _, err) = ran(watchbill("nonsense").arg("stats"));
    assert_eq!(code, Some(2));
    assert!(err.contains("--url 'nonsense' is not a URL"), "{err}");
    let peer = Peer::new(vec![says(404, problem(404, "task 't1' not found"))]);
    let (code, out, err) = ran(watchbill(&peer.url).args(["get", "t1"]));
    assert_eq!((code, out.as_str()), (Some(5), ""));
    assert!(err.starts_with("error: task 't1' not found (404)"), "{err}");
}

#[test]
fn the_embedded_bundles_key_needs_no_copying() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin.key");
    std::fs::write(&file, "wb_local\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let peer = Peer::new(vec![says(200, "{}"), says(200, "{}"), says(200, "{}")]);
    let with_data = || {
        let mut command = watchbill(&peer.url);
        command.env("WATCHBILL_DATA", folder.path()).arg("stats");
        command
    };
    let (code, _, err) = ran(&mut with_data());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(peer.next().header("x-api-key"), Some("wb_local"));

    ran(with_data().env("WATCHBILL_KEY", "wb_mine"));
    assert_eq!(
        peer.next().header("x-api-key"),
        Some("wb_mine"),
        "an explicit key takes precedence"
    );

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (_, _, err) = ran(&mut with_data());
    assert!(err.contains("is readable by other users") && err.contains("chmod 600"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let tasks: Vec<_> = (0..4_000).map(|n| task(&format!("t{n}"), "completed", 3)).collect();
    let body = json!({"success": true, "tasks": tasks, "next_cursor": null}).to_string();
    for args in [&["list"][..], &["list", "--json"]] {
        let peer = Peer::new(vec![says(200, &body)]);
        let mut child = watchbill(&peer.url)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut some = [0; 100];
        stdout.read_exact(&mut some).unwrap();
        drop(stdout);
        let (code, err) = end(child);
        assert_eq!((code, err.as_str()), (Some(0), ""));
    }
}

#[test]
fn ctrl_c_during_a_wait_shows_how_to_continue() {
    let peer = Peer::new(vec![
        says(200, json!({"success": true, "task_id": "t1", "message": "Task created"})),
        Reply::Holds,
    ]);
    let child = watchbill(&peer.url)
        .args(["submit", "monitor", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(peer.next().line(), "POST /tasks");
    assert_eq!(peer.next().line(), "GET /tasks/t1");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let (code, err) = end(child);
    assert_eq!(code, Some(130));
    assert!(err.contains("task t1 continues: watchbill get t1"), "{err}");
}

fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}
