//! Tests `watchbill bridge` and `watchbill serve --redis` as processes, with a Redis that goes
//! and comes back. What is transferred is tested in the workspace's `tests/bridge`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};
use watchbill_testkit::{RedisServer, RedisSetup};

const KEY: &str = "agent-key-0123456789";
/// Polls before a wait fails: 30 s in total, longer than any step takes on a busy machine.
const MAX_POLLS: u32 = 600;
const POLL_INTERVAL: Duration = Duration::from_millis(50);

fn watchbill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchbill"));
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process that is killed when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(command: &mut Command) -> (Self, impl Iterator<Item = String>) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Self(child), lines.map_while(Result::ok))
    }

    /// Sends SIGTERM and returns the exit code.
    fn terminate(mut self) -> Option<i32> {
        let process = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

/// Starts a server in this folder. Returns the process, its URL, and its output so far.
fn serve(folder: &Path, more: &[(&str, &str)]) -> (Process, String, Vec<String>) {
    let mut command = watchbill(folder);
    command.args(["serve", "--port", "0"]).envs(more.iter().copied());
    command.env("ORCHESTRATOR_API_KEY_AGENT", format!("{KEY}:agent"));
    command.env("RATE_LIMITS", "off").env("WATCHBILL_FIRST_TASK", "off");
    let (process, lines) = Process::start(&mut command);
    let (mut said, mut url) = (Vec::new(), None);
    for line in lines {
        if let Some((_, found)) = line.split_once(" at http://") {
            url = Some(format!("http://{found}"));
        }
        let last = line.trim_start().starts_with("agents");
        said.push(line);
        if last {
            break;
        }
    }
    (process, url.expect("the server prints its address"), said)
}

fn ask(folder: &Path, url: &str, args: &[&str]) -> Value {
    let output = watchbill(folder).args(["--url", url, "--key", KEY, "--json"]).args(args).output();
    serde_json::from_slice(&output.unwrap().stdout).unwrap_or(Value::Null)
}

/// Polls until the condition holds.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..MAX_POLLS {
        if is_so() {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    panic!("not reached within {:?}: {what}", POLL_INTERVAL * MAX_POLLS);
}

/// A task as the original orchestrator writes it into its queue.
fn put(server: &RedisServer, id: &str) {
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let task = json!({
        "task_id": id, "type": "monitor", "priority": "P2", "source": "user",
        "status": "assigned", "payload": {"service": "system"}, "assigned_to": "ops",
        "created_at": "2026-01-31T08:00:00",
    });
    let fields = [
        ("data", task.to_string()),
        ("status", "assigned".to_owned()),
        ("created_at", "2026-01-31T08:00:00".to_owned()),
        ("priority", "P2".to_owned()),
    ];
    let () = redis.hset_multiple(format!("orchestrator:task:{id}"), &fields).unwrap();
    let () = redis.zadd("orchestrator:tasks", id, 3).unwrap();
}

fn status(server: &RedisServer, id: &str) -> String {
    let mut redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    redis.hget(format!("orchestrator:task:{id}"), "status").unwrap()
}

#[test]
fn serve_reports_the_state_of_its_redis_and_runs_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = RedisSetup::new().password("hush").append_only().start();
    let url = redis.url();
    let settings = [("REDIS_URL", url.as_str()), ("REDIS_DRAIN", "ops")];
    let (process, server, said) = serve(folder.path(), &settings);
    let said = said.join("\n");
    assert!(said.contains("tasks of ops run here") && !said.contains("hush"), "{said}");
    let health = || ask(folder.path(), &server, &["health"]);
    wait_for("connected", || health()["redis"] == "connected");
    put(&redis, "t-1");
    wait_for("the task of the queue ran here", || status(&redis, "t-1") == "completed");
    assert_eq!(health()["redis_bridge"]["taken"], 1);

    redis.kill();
    wait_for("unreachable", || health()["redis"] == "unreachable");
    let away = health();
    assert_eq!(away["status"], "healthy", "the server stays healthy: {away}");
    assert!(!away.to_string().contains("hush"), "{away}");
    redis.restart();
    put(&redis, "t-2");
    wait_for("the next ran as well", || status(&redis, "t-2") == "completed");
    wait_for("connected again", || health()["redis"] == "connected");
    assert_eq!(process.terminate(), Some(0));
}

#[test]
fn a_separate_bridge_process_does_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let (server, url, _) = serve(folder.path(), &[]);
    assert_eq!(ask(folder.path(), &url, &["health"])["redis"], "disabled");
    let mut command = watchbill(folder.path());
    command.env("WATCHBILL_URL", &url).env("WATCHBILL_KEY", KEY).env("REDIS_URL", redis.url());
    command.args(["bridge", "--drain", "ops", "--events", "out"]);
    let (bridge, mut lines) = Process::start(&mut command);
    let first = lines.next().unwrap();
    assert!(first.contains(&url) && first.contains(&redis.port().to_string()), "{first}");
    assert!(lines.next().unwrap().contains("tasks of ops run here"));
    put(&redis, "t-1");
    wait_for("the task of the queue ran there", || status(&redis, "t-1") == "completed");
    assert_eq!(bridge.terminate(), Some(0));
    assert_eq!(server.terminate(), Some(0));
}

fn check(folder: &Path, server: &str, redis: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = watchbill(folder);
    command.args(["--url", server, "--key", KEY, "bridge", "--check"]).args(more);
    if !redis.is_empty() {
        command.env("REDIS_URL", redis);
    }
    let Output { status, stdout, stderr } = command.stderr(Stdio::piped()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_check_reports_what_it_finds_and_why_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisSetup::new().password("hush").start();
    let (_process, server, _) = serve(folder.path(), &[]);
    put(&redis, "t-1");
    let check = |redis: &str, more: &[&str]| check(folder.path(), &server, redis, more);

    let (code, out, err) = check(&redis.url(), &["--domains", "devops", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["role"], "master");
    assert!(found["version"].as_str().unwrap().contains('.'), "{found}");
    assert_eq!((&found["built"], &found["queue"]["waiting"]), (&json!("ops"), &json!(1)));
    assert_eq!(found["queue"]["tasks:pending:devops"], 0);
    assert_eq!(status(&redis, "t-1"), "assigned", "a check changes nothing");

    let (code, _, err) = check("", &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("REDIS_URL"), "{err}");
    let (code, _, err) = check(&redis.url(), &["--drain", "nobody"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("REDIS_DRAIN 'nobody'"), "{err}");
    let (code, _, err) = check("redis://127.0.0.1:1", &[]);
    assert_eq!(code, Some(3), "{err}");
    let wrong = format!("redis://:wrong-word@127.0.0.1:{}", redis.port());
    let (code, _, err) = check(&wrong, &[]);
    assert_eq!(code, Some(4), "{err}");
    assert!(!err.contains("wrong-word"), "{err}");

    let mut client = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let () = client.set("tasks:pending:devops", "someone else's").unwrap();
    let (code, _, err) = check(&redis.url(), &["--domains", "devops"]);
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("tasks:pending:devops"), "{err}");

    let replica = RedisSetup::new().line("masterauth hush").password("hush");
    let replica = replica.replica_of(redis.port()).start();
    let (code, _, err) = check(&replica.url(), &[]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("replica"), "{err}");
}

#[test]
fn a_key_of_another_tenant_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let (_process, server, _) = serve(folder.path(), &[]);
    ask(folder.path(), &server, &["submit", "monitor"]);
    let check = |tenant: &str| check(folder.path(), &server, &redis.url(), &["--tenant", tenant]);
    assert_eq!(check("default").0, Some(0));
    let (code, _, err) = check("acme");
    assert_eq!(code, Some(2));
    assert!(err.contains("'default'") && err.contains("'acme'"), "{err}");
}
