//! The bundle next to the programs that talk over Redis: a real server, clients and workers in
//! Python (`peers/`) that behave as docs/redis.md says, and the shipped binary.
//!
//! - `peers`: each direction, with those programs on the other side.
//! - `malformed`: queue entries that are no tasks, and keys of others.
//! - `others`: what belongs to those programs, and which reports they receive.
//! - `inside`: the bridge in this process, with a clock that the test moves.
//! - `faults`: bridge and server killed, frozen, failed over and cut off, under load. Every
//!   enqueued task must run once and finish, and no task may be left claimed or in process.
//!
//! `WATCHBILL_ROUNDS` and `WATCHBILL_TASKS` set the numbers of rounds and tasks (soak: 100 and
//! 10,000).

mod faults;
mod inside;
mod malformed;
mod others;
mod peers;
pub mod queue;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use watchbill_testkit::RedisServer;

use crate::support::{Client, KEYS, Launch, Server, settled, watchbill};

/// Longer than anything that the tests wait for takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A Redis server and a bundle that is connected to it.
struct World {
    redis: RedisServer,
    launch: Launch,
    server: Option<Server>,
    agent: Client,
    folder: tempfile::TempDir,
}

impl World {
    /// `settings`: environment variables that switch features on.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        Self::beside(redis, &url, settings).await
    }

    /// Connects by `url`, which need not lead straight to the server.
    async fn beside(redis: RedisServer, url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let mut launch = Launch::quiet(folder.path()).env("REDIS_URL", url);
        for (name, value) in settings {
            launch = launch.env(name, *value);
        }
        let server = Some(launch.start().await);
        let agent = Client::new(&launch.url(), KEYS.agent);
        Self { redis, launch, server, agent, folder }
    }

    fn url(&self) -> String {
        self.redis.url()
    }

    async fn health(&self) -> Value {
        self.agent.get("/health").await.ok()
    }

    /// Waits until the health is as wanted, and returns it.
    async fn health_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut health = Value::Null;
        let came = tokio::time::timeout(TIMEOUT, async {
            loop {
                health = self.health().await;
                if wanted(&health) {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        let came = came.await.is_ok();
        assert!(came, "not {what}: {health}\n{}", self.launch.said("stderr"));
        health
    }

    /// Waits until a task from Redis is here and has the status, and returns it.
    async fn arrives(&self, id: &str, status: &str) -> Value {
        let path = format!("/tasks/{id}");
        let came = tokio::time::timeout(TIMEOUT, async {
            while self.agent.get(&path).await.status == 404 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        assert!(came.await.is_ok(), "{id} is not imported: {}", self.launch.said("stderr"));
        self.agent.until(id, status).await
    }

    /// Every event of the bundle, oldest first, once all of them are recorded.
    async fn events(&self) -> Vec<Value> {
        settled(&self.agent).await;
        let mut events = self.agent.all("/events?", "events").await;
        events.reverse();
        events
    }

    async fn end(mut self) {
        let server = self.server.take().expect("it runs");
        assert!(server.end("TERM").await.success(), "{}", self.launch.said("stderr"));
    }
}

/// `watchbill bridge` as a separate process.
struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    fn start(redis: &str, server: &str, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(watchbill());
        command.env_clear().current_dir(folder).kill_on_drop(true).stdin(Stdio::null());
        command.args(["bridge", "--redis", redis, "--url", server]);
        command.env("WATCHBILL_KEY", KEYS.agent).envs(settings.iter().copied());
        let log = folder.join("bridge.log");
        let file = std::fs::File::options().append(true).create(true).open(&log);
        command.stdout(Stdio::null()).stderr(file.expect("its folder is ours"));
        Self { child: command.spawn().expect("watchbill starts"), log }
    }

    async fn kill(mut self) {
        if let Some(status) = self.child.try_wait().expect("it can be asked") {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            panic!("the bridge ended by itself with {status}: {said}");
        }
        self.child.kill().await.expect("it was running");
    }
}

/// A setting of the soak, or its default.
fn number(name: &str, otherwise: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")),
        Err(_) => otherwise,
    }
}
