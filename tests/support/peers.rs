//! Runs the programs in `tests/peers`: other people's clients and workers that talk over Redis.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Longer than any of them takes to start on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running program.
pub struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    name: String,
}

fn command(program: &str, url: &str, args: &[&str]) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // A Python with redis-py; `cargo xtask test` installs one and names it.
    let python = std::env::var_os("WATCHBILL_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("peers").join(program)).args(args).args(["--url", url]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Peer {
    /// Runs a program to its end, and returns what it printed, one value per line.
    pub async fn run(program: &str, url: &str, args: &[&str]) -> Vec<Value> {
        let peer = Self::start(program, url, args);
        peer.ended().await
    }

    pub fn start(program: &str, url: &str, args: &[&str]) -> Self {
        let name = format!("{program} {}", args.join(" "));
        let mut child = command(program, url, args).spawn().expect("python starts");
        let output = child.stdout.take().expect("its output is ours");
        Self { child, lines: BufReader::new(output).lines(), name }
    }

    /// Starts a program and waits until it reports that it is ready.
    pub async fn ready(program: &str, url: &str, args: &[&str]) -> Self {
        let mut peer = Self::start(program, url, args);
        let said = peer.said().await;
        if said != Some(Value::from("ready")) {
            peer.broke(&format!("said {said:?} and not that it is ready")).await;
        }
        peer
    }

    /// The next value that it prints; `None` once it has ended.
    pub async fn said(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(TIMEOUT, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} says nothing", self.name));
        let line = line.expect("its output can be read")?;
        Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} said {line}", self.name)))
    }

    /// Everything that it still prints until it ends.
    pub async fn ended(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(said) = self.said().await {
            all.push(said);
        }
        let status = self.child.wait().await.expect("it can be waited for");
        if !status.success() {
            self.broke(&format!("ended with {status}")).await;
        }
        all
    }

    async fn broke(&mut self, how: &str) -> ! {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = self.child.start_kill();
            let _ = errors.read_to_string(&mut said).await;
        }
        panic!("{} {how}: {said}", self.name);
    }
}
