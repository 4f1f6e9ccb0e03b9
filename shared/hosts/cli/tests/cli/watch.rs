//! Tests of `watchbill watch`.

use std::time::Duration;

use serde_json::json;
use watchbill::exit::Exit;
use watchbill::out::Terminal;

use super::peer::{Peer, Reply, problem, says, says_later};
use super::world::{Setting, run, run_in};

fn event(n: u32, kind: &str) -> String {
    json!({"event_id": format!("e{n}"), "event_type": kind, "priority": "medium",
           "source_agent": "ops", "trace_id": "t", "task_id": "t1",
           "payload": {"status": "ok"}, "timestamp": format!("2026-01-31T08:00:0{n}.000Z"),
           "metadata": {}})
    .to_string()
}

fn page(events: &[String]) -> Reply {
    let events = events.join(",");
    says(200, format!(r#"{{"success":true,"events":[{events}],"next_cursor":null}}"#))
}

fn the_end() -> Reply {
    says(403, problem(403, "the key was revoked"))
}

#[test]
fn events_go_on_where_they_were_lost() {
    let (e1, e2, e3) =
        (event(1, "task.created"), event(2, "task.started"), event(3, "task.completed"));
    let peer = Peer::new(vec![
        page(&[e2.clone(), e1.clone()]),
        Reply::Closes,
        says_later(429, 7),
        page(&[e2.clone(), e3.clone()]),
        page(&[]),
        the_end(),
    ]);
    let ran = run(&peer.url, &["watch", "--json", "--type", "task", "--task", "t1"]);
    assert_eq!(ran.exit, Exit::Refused);
    assert_eq!(
        ran.out,
        format!("{e1}\n{e2}\n{e3}\n{}\n", problem(403, "the key was revoked")),
        "in order, each once, to the byte"
    );
    let first = "GET /events?type=task.&task_id=t1&limit=10";
    let after = |n| format!("GET /events?type=task.&task_id=t1&after=e{n}&wait=20");
    assert_eq!(peer.lines(), [first.to_owned(), after(2), after(2), after(2), after(3), after(3)],);
    let second = Duration::from_secs(1);
    assert_eq!(ran.slept, [second, 7 * second, second, second], "back-off, Retry-After, pace");
    assert!(ran.err.contains("trying again in 7 s"), "{}", ran.err);
    assert!(ran.err.contains("reconnected"), "{}", ran.err);
}

/// The server reads a limited part per call: an empty page with a cursor is not the end, and the
/// cursor stays valid until something comes after it.
#[test]
fn an_empty_page_with_a_cursor_is_followed() {
    let part = |events: &[String], cursor: &str| {
        let events = events.join(",");
        says(200, format!(r#"{{"success":true,"events":[{events}],"next_cursor":"{cursor}"}}"#))
    };
    let (e1, e2) = (event(1, "task.created"), event(2, "task.started"));
    let peer = Peer::new(vec![
        part(&[], "e1-a"),
        part(std::slice::from_ref(&e1), "e1-b"),
        part(&[], "f1-c"),
        page(&[]),
        part(std::slice::from_ref(&e2), "f1-d"),
        page(&[]),
        the_end(),
    ]);
    let ran = run(&peer.url, &["watch", "--json"]);
    assert_eq!(ran.out, format!("{e1}\n{e2}\n{}\n", problem(403, "the key was revoked")));
    let lines = peer.lines();
    let after = |rest: &str| format!("GET /events?after={rest}&wait=20");
    assert_eq!(
        lines,
        [
            "GET /events?limit=10".to_owned(),
            "GET /events?cursor=e1-a&limit=10".to_owned(),
            after("e1"),
            after("e1&cursor=f1-c"),
            after("e1&cursor=f1-c"),
            after("e2&cursor=f1-d"),
            after("e2&cursor=f1-d"),
        ]
    );
}

#[test]
fn an_empty_server_is_polled_without_a_position() {
    let peer = Peer::new(vec![
        page(&[]),
        page(&[event(2, "task.started"), event(1, "task.created")]),
        the_end(),
    ]);
    let ran = run(&peer.url, &["watch"]);
    assert_eq!(
        ran.out,
        "2026-01-31 08:00:01  task.created          ops      t1  status ok\n\
         2026-01-31 08:00:02  task.started          ops      t1  status ok\n"
    );
    let lines = peer.lines();
    assert_eq!(lines[1..], ["GET /events?wait=20", "GET /events?after=e2&wait=20"]);
}

#[test]
fn a_terminal_gets_colours_and_no_longer_lines_than_it_has() {
    let script = || vec![page(&[event(1, "task.completed")]), the_end()];
    let terminal = Terminal { columns: Some(50), error_columns: None, no_color: false };
    let peer = Peer::new(script());
    let ran = run_in(&peer.url, &["watch"], Setting { terminal, ..Setting::default() });
    assert_eq!(ran.out, "08:00:01  \u{1b}[32mtask.completed      \u{1b}[0m  ops      t1  stat…\n");
    let peer = Peer::new(script());
    let setting = Setting { terminal, ..Setting::default() };
    let ran = run_in(&peer.url, &["watch", "--no-color"], setting);
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
}

#[test]
fn earlier_events_are_not_shown_unless_wanted() {
    let peer = Peer::new(vec![
        page(&[event(1, "task.created")]),
        page(&[event(2, "deploy.started"), event(3, "task.failed")]),
        the_end(),
    ]);
    let ran = run(&peer.url, &["watch", "--last", "0", "--type", "task."]);
    assert_eq!(ran.out, "2026-01-31 08:00:03  task.failed           ops      t1  status ok\n");
}
