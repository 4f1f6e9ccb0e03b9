//! Test support: runs a command line with a fake clock, fixed entropy and captured output.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use futures_util::future::BoxFuture;
use watchbill::args::Cli;
use watchbill::context::CliContext;
use watchbill::exit::Exit;
use watchbill::out::Terminal;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::Timestamp;

/// Starts at 2026-01-31T08:00:00Z. A sleep advances it and takes no real time.
#[derive(Default)]
struct TestClock {
    slept: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::parse("2026-01-31T08:00:00Z").expect("a time").plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.slept.lock().expect("no thread panics while it holds the lock").iter().sum()
    }

    async fn sleep(&self, how_long: Duration) {
        self.slept.lock().expect("no thread panics while it holds the lock").push(how_long);
        tokio::task::yield_now().await;
    }
}

/// Counts up: each draw differs, and each run is the same.
#[derive(Default)]
struct TestEntropy(Mutex<u8>);

impl Entropy for TestEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut next = self.0.lock().expect("no thread panics while it holds the lock");
        for byte in bytes {
            *next = next.wrapping_add(1);
            *byte = *next;
        }
    }
}

#[derive(Clone, Default)]
struct Pad(Arc<Mutex<Vec<u8>>>);

impl Write for Pad {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no thread panics while it holds the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pad {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no thread panics while it holds the lock").clone())
            .expect("UTF-8")
    }
}

#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub out: String,
    pub err: String,
    pub slept: Vec<Duration>,
}

/// What a test sets about the environment.
pub struct Setting {
    pub stdin: &'static str,
    pub terminal: Terminal,
    pub interrupt: fn() -> BoxFuture<'static, ()>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            stdin: "",
            terminal: Terminal::default(),
            interrupt: || Box::pin(std::future::pending()),
        }
    }
}

pub fn run(url: &str, args: &[&str]) -> Ran {
    run_in(url, args, Setting::default())
}

pub fn run_in(url: &str, args: &[&str], setting: Setting) -> Ran {
    let head = ["watchbill", "--url", url, "--key", "wb_test"];
    let cli = Cli::try_parse_from(head.iter().chain(args)).expect("a command line");
    let (clock, stdout, stderr) = (Arc::new(TestClock::default()), Pad::default(), Pad::default());
    let world = CliContext {
        clock: clock.clone(),
        entropy: Arc::new(TestEntropy::default()),
        stdin: Box::new(setting.stdin.as_bytes()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        terminal: setting.terminal,
        data: PathBuf::from("no-such-folder"),
        interrupt: setting.interrupt,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let exit = runtime.block_on(watchbill::run(cli, world));
    let slept = clock.slept.lock().expect("no thread panics while it holds the lock").clone();
    Ran { exit, out: stdout.text(), err: stderr.text(), slept }
}
