//! The bundle beside the programs that talk over Redis: a real server, clients and workers in
//! Python (`peers/`) that do what docs/redis.md says, and the shipped binary.
//!
//! - `peers`: each direction, with those programs on the other side.
//! - `odd`: what stands in the queue and is no task, and keys of others.
//! - `others`: what belongs to those programs, and who is told what.
//! - `inside`: the bridge in this process, on a clock that the test moves.
//! - `faults`: bridge and server killed, frozen, failed over, cut off, under load. What is
//!   put there must be run once and finished, and nothing may be left in between.
//!
//! `WATCHBILL_ROUNDS` and `WATCHBILL_TASKS` set how often and how much (soak: 100, 10,000).

mod faults;
mod inside;
mod odd;
mod others;
mod peers;
pub mod queue;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use watchbill_testkit::RedisServer;

use crate::rig::{Client, KEYS, Launch, Server, settled, watchbill};

/// Longer than anything that is waited for takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// A Redis and a bundle that serves beside it.
struct World {
    redis: RedisServer,
    launch: Launch,
    server: Option<Server>,
    agent: Client,
    folder: tempfile::TempDir,
}

impl World {
    /// `settings`: what is switched on.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        Self::beside(redis, &url, settings).await
    }

    /// By another way than straight to the server.
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

    /// The health once it is as wanted.
    async fn health_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut health = Value::Null;
        let came = tokio::time::timeout(PATIENCE, async {
            loop {
                health = self.health().await;
                if wanted(&health) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        let came = came.await.is_ok();
        assert!(came, "not {what}: {health}\n{}", self.launch.said("stderr"));
        health
    }

    /// A task that comes from there, once it is here and as wanted.
    async fn arrives(&self, id: &str, status: &str) -> Value {
        let path = format!("/tasks/{id}");
        let came = tokio::time::timeout(PATIENCE, async {
            while self.agent.get(&path).await.status == 404 {
                tokio::time::sleep(LOOK).await;
            }
        });
        assert!(came.await.is_ok(), "{id} never came: {}", self.launch.said("stderr"));
        self.agent.until(id, status).await
    }

    /// Every event of the bundle, oldest first, once all of it is recorded.
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

/// `watchbill bridge`, a process of its own.
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

/// A setting of the soak, or what is enough otherwise.
fn number(name: &str, otherwise: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")),
        Err(_) => otherwise,
    }
}
