//! Runs the scenarios against `watchbill serve`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::support::{Client, KEYS, Keys, Launch, Server, settled};
use super::{Backend, Settings};

/// Tasks that run at once where a scenario asks for a crowd.
const SLOTS: usize = 2;

/// `watchbill serve` as its own process, with its own folder.
pub struct Embedded {
    launch: Launch,
    /// `None` only during a restart.
    server: Option<Server>,
    folder: TempDir,
}

impl Backend for Embedded {
    async fn start(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join("watchbill.yaml"), file(settings)).expect("it is ours");
        fs::write(folder.path().join("policy.yaml"), settings.policy()).expect("it is ours");
        // Lets probes reach services of the scenario itself.
        let mut launch = Launch::quiet(folder.path()).env("PROBE_ALLOW_PRIVATE", "on");
        if let Some(redis) = &settings.redis {
            launch = launch
                .env("REDIS_URL", &redis.url)
                .env("REDIS_DRAIN", redis.drain)
                .env("REDIS_FEED", redis.feed)
                .env("REDIS_EVENTS", redis.events)
                .env("REDIS_MIRROR", redis.mirror);
        }
        let server = Some(launch.start().await);
        Self { launch, server, folder }
    }

    fn url(&self) -> String {
        self.launch.url()
    }

    fn keys(&self) -> Keys {
        KEYS.owned()
    }

    fn late(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn crowd(&self) -> (usize, usize) {
        (8 * SLOTS, 2 * SLOTS)
    }

    async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.end("TERM").await.success());
        }
        self.server = Some(self.launch.start().await);
    }

    async fn set_policy(&self, policy: &str) {
        fs::write(self.folder.path().join("policy.yaml"), policy).expect("it is ours");
    }

    async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.end("TERM").await.success());
        }
    }

    async fn settled(&self, anyone: &Client) {
        settled(anyone).await;
    }

    async fn log(&self) -> String {
        format!("{}\n{}", self.launch.said("stderr"), self.launch.said("stdout"))
    }

    async fn assert_nothing_left(&self) {
        let log = self.launch.said("stderr");
        assert!(!log.contains("ERROR"), "something is logged as a fault: {log}");
    }
}

/// The configuration file as JSON, which is YAML too.
fn file(settings: &Settings) -> String {
    let mut file = settings.rules();
    let approvals = file.entry("approvals").or_insert_with(|| json!({}));
    approvals["own"] = json!(!settings.two_persons);
    file.extend(settings.crowded.then(|| ("slots".to_owned(), json!(SLOTS))));
    file.extend(
        settings.webhook.as_ref().map(|url| ("notify".to_owned(), json!({"webhook": url}))),
    );
    Value::Object(file).to_string()
}

super::scenarios::run_scenarios!(super::Embedded);
