//! What the command line uses of the machine, so that a test can replace it.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::Timestamp;

use super::out::{Output, Terminal};

pub struct CliContext {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub stdin: Box<dyn Read>,
    pub stdout: Box<dyn Write>,
    pub stderr: Box<dyn Write>,
    pub terminal: Terminal,
    /// The data folder, in which a server on this machine leaves its admin key.
    pub data: PathBuf,
    /// Resolves when the user presses Ctrl-C. Until it is called, Ctrl-C ends the process.
    pub interrupt: fn() -> BoxFuture<'static, ()>,
}

/// The default data folder, if neither `--data` nor `WATCHBILL_DATA` names one.
pub const DATA: &str = ".watchbill";

impl CliContext {
    /// The context of this process: its streams, its terminal, the system's time and randomness.
    pub fn of_this_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let columns = |handle: bool, size: Option<(terminal_size::Width, _)>| {
            handle.then(|| size.map_or(80, |(width, _)| usize::from(width.0)).max(20))
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Self {
            clock: Arc::new(SystemTime),
            entropy: Arc::new(SystemRandom),
            stdin: Box::new(io::stdin()),
            terminal: Terminal {
                columns: columns(stdout.is_terminal(), terminal_size::terminal_size_of(&stdout)),
                error_columns: columns(
                    stderr.is_terminal(),
                    terminal_size::terminal_size_of(&stderr),
                ),
                no_color: set("NO_COLOR").is_some() || set("TERM").is_some_and(|t| t == "dumb"),
            },
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            data: set("WATCHBILL_DATA").map_or_else(|| DATA.into(), PathBuf::from),
            interrupt: || {
                Box::pin(async {
                    if tokio::signal::ctrl_c().await.is_err() {
                        // No handler could be installed, so Ctrl-C still ends the process.
                        std::future::pending::<()>().await;
                    }
                })
            },
        }
    }
}

impl CliContext {
    /// Consumes the context and returns its output side.
    pub fn into_out(self, json: bool, no_color: bool) -> Output {
        let no_color = no_color || self.terminal.no_color;
        Output::new(json, Terminal { no_color, ..self.terminal }, self.stdout, self.stderr)
    }
}

struct SystemTime;

#[async_trait]
impl Clock for SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    async fn sleep(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }
}

struct SystemRandom;

impl Entropy for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the source of randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}
