//! Tests of exit codes, error texts and retries.

use std::time::Duration;

use watchbill::exit::{EXIT_CODES, Exit};

use super::peer::{Peer, Reply, got, problem, says, says_later, task};
use super::world::run;

#[test]
fn each_refusal_has_its_exit_code() {
    for (status, exit) in [
        (400, Exit::Invalid),
        (401, Exit::Refused),
        (403, Exit::Refused),
        (404, Exit::NotFound),
        (409, Exit::Conflict),
        (413, Exit::Invalid),
        (415, Exit::Invalid),
        (418, Exit::Invalid),
    ] {
        let peer = Peer::new(vec![says(status, problem(status, "no good"))]);
        let ran = run(&peer.url, &["get", "t1"]);
        assert_eq!(ran.exit, exit, "{status}");
        assert!(ran.err.starts_with(&format!("error: no good ({status})")), "{}", ran.err);
        assert_eq!(peer.lines(), ["GET /tasks/t1"], "a refused request is not retried");
    }
    let codes: Vec<u8> = EXIT_CODES.iter().map(|(exit, _)| *exit as u8).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130], "scripts rely on these");
}

#[test]
fn an_absent_server_is_reported_at_once_with_advice() {
    let url = Peer::absent();
    let ran = run(&url, &["stats"]);
    assert_eq!(ran.exit, Exit::Unreachable);
    assert_eq!(
        ran.err,
        format!(
            "error: could not reach {url}: connection refused; start it with 'watchbill serve' or \
             set --url\n"
        )
    );
    assert!(ran.slept.is_empty());
}

#[test]
fn reading_is_repeated_until_the_server_is_back() {
    let peer = Peer::new(vec![
        says(500, problem(500, "oops")),
        Reply::Closes,
        says_later(429, 3),
        got(&task("t1", "completed", 4)),
    ]);
    let ran = run(&peer.url, &["get", "t1"]);
    assert_eq!((ran.exit, peer.lines().len()), (Exit::Fine, 4), "{}", ran.err);
    assert!(ran.slept[0] < Duration::from_millis(251) && ran.slept[1] > ran.slept[0]);
    assert_eq!(ran.slept[2], Duration::from_secs(3), "as the server asked");
    assert!(ran.err.contains("rate limited; trying again in 3 s"), "{}", ran.err);
}

#[test]
fn a_server_that_stays_broken_is_given_up() {
    let broken = || says(503, problem(503, "the store is down"));
    let peer = Peer::new((0..9).map(|_| broken()).collect());
    let ran = run(&peer.url, &["get", "t1"]);
    assert_eq!((ran.exit, peer.lines().len()), (Exit::Server, 5));
    assert!(ran.err.contains("the store is down (503)"), "{}", ran.err);
    assert!(ran.err.contains("watchbill health"), "{}", ran.err);
}

#[test]
fn a_long_rate_limit_is_reported_not_waited_for() {
    let peer = Peer::new(vec![says_later(429, 3_600)]);
    let ran = run(&peer.url, &["get", "t1"]);
    assert_eq!((ran.exit, ran.slept.len()), (Exit::Server, 0));
    assert!(ran.err.contains("try again in 3600 s"), "{}", ran.err);
}

#[test]
fn a_change_that_might_have_been_made_is_not_repeated() {
    for misbehaves in [says(500, problem(500, "oops")), Reply::Closes] {
        let peer = Peer::new(vec![misbehaves, says(200, "{}")]);
        let ran = run(&peer.url, &["cancel", "t1"]);
        assert!(matches!(ran.exit, Exit::Server | Exit::Unreachable), "{ran:?}");
        assert_eq!(peer.lines(), ["POST /tasks/t1/cancel"]);
    }
    let done = says(200, r#"{"success":true,"task_id":"t1","status":"cancelled"}"#);
    let peer = Peer::new(vec![says_later(429, 2), done]);
    let ran = run(&peer.url, &["cancel", "t1", "--reason", "not needed"]);
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Fine, "t1 cancelled\n"));
    assert_eq!(peer.lines(), ["POST /tasks/t1/cancel?reason=not+needed"; 2]);
}

#[test]
fn a_problem_is_shown_in_full_and_passed_on_as_json() {
    let body = r#"{"type":"urn:watchbill:invalid","title":"Bad Request","status":400,
        "detail":"2 fields are wrong","errors":[{"field":"priority","message":"'P9' is none"},
        {"field":"payload","message":"is missing"}]}"#;
    let peer = Peer::new(vec![says(400, body), says(400, body)]);
    let ran = run(&peer.url, &["submit", "deploy", "--priority", "P9"]);
    assert_eq!(
        ran.err,
        "error: 2 fields are wrong (400)\n  priority: 'P9' is none\n  payload: is missing\n"
    );
    let ran = run(&peer.url, &["--json", "submit", "deploy"]);
    assert_eq!((ran.exit, ran.out), (Exit::Invalid, format!("{body}\n")));
}

#[test]
fn a_response_of_another_program_is_reported() {
    let peer = Peer::new(vec![says(200, "<html>hello</html>")]);
    let ran = run(&peer.url, &["stats"]);
    assert_eq!(ran.exit, Exit::Server);
    assert!(
        ran.err.contains("returned an unexpected response") && ran.err.contains("--url"),
        "{}",
        ran.err
    );
}

#[test]
fn a_redirect_does_not_carry_the_key_away() {
    let elsewhere = Peer::new(vec![says(200, "{}")]);
    let peer = Peer::new(vec![Reply::Says {
        status: 302,
        headers: vec![("Location", format!("{}/stats", elsewhere.url))],
        body: String::new(),
    }]);
    let ran = run(&peer.url, &["stats"]);
    assert_eq!(ran.exit, Exit::Server);
    assert!(elsewhere.lines().is_empty());
}
