use std::fs;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::super::rig::{KEYS, Keys, Launch, Server};
use super::{Backend, Settings};

/// `watchbill serve` in a process of its own, on a folder of its own.
pub struct Embedded {
    launch: Launch,
    /// None only while it is started again.
    server: Option<Server>,
    _folder: TempDir,
}

impl Backend for Embedded {
    async fn start(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join("watchbill.yaml"), file(settings)).expect("it is ours");
        // Probes reach what a scenario itself serves.
        let launch = Launch::quiet(folder.path()).env("PROBE_ALLOW_PRIVATE", "on");
        let server = Some(launch.start().await);
        Self { launch, server, _folder: folder }
    }

    fn url(&self) -> String {
        self.launch.url()
    }

    fn keys(&self) -> Keys {
        KEYS
    }

    fn late(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.end("TERM").await.success());
        }
        self.server = Some(self.launch.start().await);
    }

    async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            assert!(server.end("TERM").await.success());
        }
    }

    async fn assert_nothing_left(&self) {
        let log = self.launch.said("stderr");
        assert!(!log.contains("ERROR"), "something is logged as a fault: {log}");
    }
}

/// The configuration file. JSON is YAML too.
fn file(settings: &Settings) -> String {
    let mut file = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        file.extend(value.map(|value| (name.to_owned(), value)));
    };
    set("gates", settings.gates_off.then(|| json!({"all": "off"})));
    set("external_agents", Some(json!(settings.external)));
    set("sla", settings.warn_at.map(|percent| json!({"threshold": percent})));
    set("slots", settings.slots.map(Value::from));
    set("run_limit", settings.run_limit.map(Value::from));
    set("worker_lease", settings.worker_lease.map(Value::from));
    set("retries", settings.retry_wait.map(|wait| json!({"base": wait, "cap": wait})));
    let mut approvals = Map::from_iter([("own".to_owned(), json!(!settings.two_persons))]);
    approvals.extend(settings.decide_within.map(|span| ("decide_within".to_owned(), json!(span))));
    set("approvals", Some(Value::Object(approvals)));
    Value::Object(file).to_string()
}

super::scenarios::run_scenarios!(super::Embedded);
