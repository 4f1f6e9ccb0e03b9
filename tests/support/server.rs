//! Starts and ends `watchbill serve` as a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::Method;
use tokio::process::{Child, Command};
use watchbill_testkit::free_port;

use super::{Client, KEYS, binary};

/// Longer than any start, end or response takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a starting server is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How `watchbill serve` is started: on its own folder, without our environment.
pub struct Launch {
    folder: PathBuf,
    port: u16,
    env: Vec<(String, String)>,
}

impl Launch {
    /// Uses `folder` for data, configuration and output.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), port: free_port(), env: Vec::new() }
    }

    /// With a key of each role, no rate limits and no first task.
    pub fn quiet(folder: &Path) -> Self {
        let roles = [
            ("ADMIN", KEYS.admin),
            ("AGENT", KEYS.agent),
            ("APPROVER", KEYS.approver),
            ("USER", KEYS.user),
        ];
        let mut launch = Self::new(folder);
        for (role, key) in roles {
            let value = format!("{key}:{}", role.to_ascii_lowercase());
            launch = launch.env(&format!("ORCHESTRATOR_API_KEY_{role}"), value);
        }
        launch.env("RATE_LIMITS", "off").env("WATCHBILL_FIRST_TASK", "off")
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it has written to standard output or error, over all its starts.
    pub fn said(&self, stream: &str) -> String {
        fs::read_to_string(self.folder.join(stream)).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary::watchbill());
        command.env_clear().current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        command.args(["serve", "--port", &self.port.to_string(), "--data"]).arg(self.data());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        for (stream, is_error) in [("stdout", false), ("stderr", true)] {
            let path = self.folder.join(stream);
            let file = File::options().append(true).create(true).open(path);
            let file = file.expect("its folder is ours");
            match is_error {
                true => command.stderr(file),
                false => command.stdout(file),
            };
        }
        command
    }

    /// Starts it and waits until it ends by itself; returns its exit code and its standard error,
    /// which is kept apart from that of another process in the folder.
    pub async fn fails(&self) -> (Option<i32>, String) {
        let child = self.command().stderr(Stdio::piped()).spawn().expect("watchbill starts");
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await;
        let output = output.expect("it ends by itself").expect("it can be waited for");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts it and waits until it responds.
    pub async fn start(&self) -> Server {
        let child = self.command().spawn().expect("watchbill starts");
        let mut server = Server { child };
        let anyone = Client::new(&self.url(), "");
        let answers = async {
            loop {
                if anyone.send(Method::GET, "/health", None, None).await.is_ok() {
                    return;
                }
                if let Some(status) = server.child.try_wait().expect("it can be asked") {
                    panic!("watchbill ended with {status}: {}", self.said("stderr"));
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let up = tokio::time::timeout(TIMEOUT, answers).await;
        assert!(up.is_ok(), "watchbill does not answer: {}", self.said("stderr"));
        server
    }
}

/// A running `watchbill serve`, which is killed on drop.
pub struct Server {
    child: Child,
}

impl Server {
    /// Kills it without a shutdown, as a power cut would.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it was running");
    }

    /// Ends it with a signal such as `TERM`.
    pub async fn end(self, with: &str) -> ExitStatus {
        signal(&self.child, with).await;
        ended(self.child).await
    }
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it has not been waited for").to_string();
    let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().await;
    assert!(sent.expect("kill starts").success());
}

async fn ended(mut child: Child) -> ExitStatus {
    let status = tokio::time::timeout(TIMEOUT, child.wait()).await;
    status.expect("it ends in time").expect("it can be waited for")
}
