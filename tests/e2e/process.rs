//! The embedded bundle as a process: how it starts, what it reports when it can't, how it ends.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use watchbill_testkit::free_port;

use crate::support::{Books, Client, KEYS, Launch, settled};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

/// Checks that it ends with a failure code and one line that contains all of `words`.
async fn refuses(launch: &Launch, words: &[&str]) {
    let (code, said) = launch.fails().await;
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {said}");
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "the error is one line: {said}");
    for word in words {
        assert!(lines[0].contains(word), "'{word}' is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_port_in_use_is_reported_in_one_line() {
    let folder = folder();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let launch = Launch::quiet(folder.path()).port(port);
    refuses(&launch, &[&port.to_string(), "in use", "--port"]).await;
    assert!(!launch.data().exists(), "nothing is written before the port is bound");
}

#[tokio::test]
async fn a_data_path_that_is_a_file_is_reported_in_one_line() {
    let folder = folder();
    let launch = Launch::quiet(folder.path());
    fs::write(launch.data(), "a file").unwrap();
    refuses(&launch, &["data"]).await;
}

#[tokio::test]
async fn a_second_process_on_the_data_folder_is_refused_in_one_line() {
    let folder = folder();
    let first = Launch::quiet(folder.path());
    let server = first.start().await;
    let second = Launch::quiet(folder.path()).port(free_port());
    refuses(&second, &["data"]).await;
    let alive = Client::new(&first.url(), KEYS.user);
    alive.get("/tasks").await.ok();
    assert!(server.end("TERM").await.success(), "the first process still runs");
}

#[tokio::test]
async fn idle_connections_do_not_block_other_clients() {
    let folder = folder();
    fs::write(folder.path().join("watchbill.yaml"), "connections: {limit: 32}").unwrap();
    let launch = Launch::quiet(folder.path());
    let server = launch.start().await;
    let address = launch.url().trim_start_matches("http://").to_owned();
    let held: Vec<_> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let client = Client::new(&launch.url(), KEYS.user);
    let connections = client.get("/health").await.ok()["connections"].clone();
    assert!(connections["open"].as_u64().unwrap() <= 32, "{connections}");
    assert!(connections["closed_for_others"].as_u64().unwrap() >= 200 - 32, "{connections}");
    assert_eq!((&connections["limit"], &connections["refused"]), (&json!(32), &json!(0)));
    assert!(launch.said("stderr").contains("all connections are in use"));
    drop(held);
    assert!(server.end("TERM").await.success());
}

#[tokio::test]
async fn a_wrong_setting_is_named_with_its_value() {
    let cases: &[(&str, &[&str])] = &[
        ("slots: 0", &["slots", "0", "agents: off"]),
        ("no_such_setting: 1", &["no_such_setting", "watchbill.yaml"]),
        ("sla: {threshold: 200}", &["sla.threshold", "200"]),
        ("approvals: {decide_within: soon}", &["approvals.decide_within", "soon"]),
        ("routes: {deploy: nobody}", &["routes", "nobody"]),
        ("host: everywhere", &["host", "everywhere"]),
        ("gates: {all: off}", &["watchbill.yaml", "line 1", "gates", "policy.yaml"]),
        ("governance_on_failure: stop", &["governance_on_failure", "stop", "restrict"]),
        ("policy: elsewhere.yaml", &["elsewhere.yaml", "can't be read"]),
        ("connections: {limit: 3}", &["connections.limit", "3", "16"]),
        ("connections: {stalled_after: 0}", &["connections.stalled_after", "'0'", "1s"]),
        ("trusted_proxies: [proxy.internal]", &["trusted_proxies", "proxy.internal"]),
    ];
    for (text, words) in cases {
        let folder = folder();
        fs::write(folder.path().join("watchbill.yaml"), text).unwrap();
        refuses(&Launch::quiet(folder.path()), words).await;
    }
    let cases: &[(&str, &str, &[&str])] = &[
        ("WATCHBILL_GATES", "maybe", &["WATCHBILL_GATES", "maybe", "on or off"]),
        ("EXTERNAL_AGENTS", "cook", &["external_agents", "cook"]),
        ("RATE_LIMITS", "POST /tasks=many", &["RATE_LIMITS", "many"]),
        ("TRUSTED_PROXIES", "10.0.0.0/64", &["trusted_proxies", "10.0.0.0/64"]),
        ("ORCHESTRATOR_API_KEY_X", "no-role", &["ORCHESTRATOR_API_KEY_X"]),
        ("ORCHESTRATOR_JWT_SECRET", "short", &["32"]),
        ("ORCHESTRATOR_PORT", "http", &[]),
    ];
    for (name, value, words) in cases {
        let folder = folder();
        let launch = Launch::quiet(folder.path()).env(name, *value);
        match *name {
            // The command line's port takes precedence.
            "ORCHESTRATOR_PORT" => assert!(launch.start().await.end("TERM").await.success()),
            _ => refuses(&launch, words).await,
        }
    }
}

#[tokio::test]
async fn the_first_start_shows_the_key_once_and_a_first_task() {
    let folder = folder();
    let launch = Launch::new(folder.path()).env("RATE_LIMITS", "off");
    let server = launch.start().await;
    let key = fs::read_to_string(launch.data().join("admin.key")).expect("the key is kept");
    let key = key.trim().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(launch.data().join("admin.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "nobody else reads the key");
    let admin = Client::new(&launch.url(), &key);
    let first = admin.get("/tasks?wait=20").await.ok();
    let first = first["tasks"][0]["task_id"].as_str().expect("a first task").to_owned();
    admin.until(&first, "completed").await;
    // The task's result is printed after the task has ended.
    let printed = tokio::time::timeout(Duration::from_secs(20), async {
        while !launch.said("stdout").contains("result  ") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    printed.await.unwrap_or_else(|_| panic!("no result in: {}", launch.said("stdout")));
    assert!(server.end("TERM").await.success());
    let said = launch.said("stdout");
    assert_eq!(said.matches(&format!("admin key  {key}\n")).count(), 1, "{said}");
    assert!(said.contains(&format!("({first})")) && said.contains("task.completed"), "{said}");
    assert!(!launch.said("stderr").contains(&key), "no key in the log");

    let server = launch.start().await;
    assert_eq!(admin.all("/tasks?", "tasks").await.len(), 1, "the first task is made once");
    assert!(server.end("TERM").await.success());
    let again = launch.said("stdout")[said.len()..].to_owned();
    assert!(
        !again.contains(&format!("admin key  {key}")) && !again.contains("first task"),
        "{again}"
    );
    assert!(again.contains("admin.key") && again.contains("start number 2"), "{again}");
}

/// A hanging probe is in the middle of its run when the signal arrives.
#[tokio::test]
async fn running_tasks_end_before_a_signalled_shutdown() {
    for name in ["TERM", "INT"] {
        let folder = folder();
        let launch = Launch::quiet(folder.path()).env("PROBE_ALLOW_PRIVATE", "on");
        let server = launch.start().await;
        let agent = Client::new(&launch.url(), KEYS.agent);
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let payload = json!({"service": "silent", "url": url, "timeout": 1});
        let task = agent.submit(json!({"type": "monitor", "payload": payload})).await;
        let id = task["task_id"].as_str().expect("a task has an id").to_owned();
        agent.until(&id, "in_progress").await;
        assert_eq!(server.end(name).await.code(), Some(0), "SIG{name}");
        let said = launch.said("stdout");
        assert!(said.contains("stopping") && said.contains("stopped"), "{said}");

        let server = launch.start().await;
        settled(&agent).await;
        let books = Books::read(&agent).await;
        books.check();
        assert_eq!(books.tasks[&id]["status"], "completed");
        let claims = |entry: &&Value| {
            let what = entry["what"].as_str().unwrap_or_default();
            ["claimed", "reclaimed", "resumed"].contains(&what)
        };
        let runs = books.timelines[&id].iter().filter(claims).count();
        assert_eq!(runs, 1, "SIG{name}: it completed before the shutdown and did not run again");
        assert!(server.end("TERM").await.success());
    }
}
