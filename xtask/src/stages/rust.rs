//! The stages that use the Rust toolchain.

use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};

use super::Report;
use crate::cmd;
use crate::ctx::Ctx;
use crate::tools::fixture::{self, Fixture};
use crate::tools::{apt, rustup, venv, which};

pub fn fmt(ctx: &Ctx) -> Result<Report> {
    rustup::need(ctx, "fmt", "rustfmt")?;
    cmd::run(&mut ctx.cargo(&["fmt", "--all", "--check"]))?;
    Ok(Report::new())
}

pub fn clippy(ctx: &Ctx) -> Result<Report> {
    rustup::need(ctx, "clippy", "clippy")?;
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    cmd::run(&mut ctx.cargo(&args))?;
    Ok(Report::new())
}

pub fn doc(ctx: &Ctx) -> Result<Report> {
    let args = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    cmd::run(ctx.cargo(&args).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Report::new())
}

pub fn doctests(ctx: &Ctx) -> Result<Report> {
    cmd::run(&mut ctx.cargo(&["test", "--workspace", "--doc", "--quiet", "--locked"]))?;
    Ok(Report::new())
}

/// Uses nextest if it is installed: it runs the tests of all binaries concurrently.
pub fn tests(ctx: &Ctx) -> Result<Report> {
    apt::need("redis-server", "redis-server")?;
    let mut closing = Closing::default();
    // Built before and copied: a build during the tests would replace the binary while tests
    // start it.
    let binary = shipped(ctx)?;
    let peers = venv::python_with(ctx, "redis")?;
    let fixture = Fixture::up(ctx)?;
    let emulator = fixture::plain(ctx)?;
    let mut command = if which("cargo-nextest").is_some() {
        let run = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--test-threads"];
        let mut command = ctx.cargo(&run);
        // Most tests wait for a server or for time to pass: with one for each core, the cores are
        // idle for more than half of the run.
        command.arg((2 * available_parallelism()?.get()).to_string());
        command
    } else {
        let targets = ["test", "--workspace", "--lib", "--bins", "--tests"];
        let mut command = ctx.cargo(&targets);
        command.args(["--locked", "--no-fail-fast"]);
        command
    };
    command.env("WATCHBILL_BIN", binary).env("WATCHBILL_FIXTURE", fixture.url());
    command.env("WATCHBILL_AWS_ENDPOINT", emulator.url()).env("WATCHBILL_PYTHON", peers);
    // A failed stage is reported by its error; its closing line was just printed.
    cmd::watch(&mut command, |line| closing.read(line))?;
    fixture.end(ctx)?;
    Ok(closing.line().into_iter().collect())
}

/// The binary that the tests of the whole bundle start, as `cargo build` makes it.
fn shipped(ctx: &Ctx) -> Result<PathBuf> {
    cmd::run(&mut ctx.cargo(&["build", "--package", "watchbill", "--locked"]))?;
    let (built, kept) = (ctx.target.join("debug/watchbill"), ctx.folder("bin")?.join("watchbill"));
    std::fs::copy(&built, &kept)
        .with_context(|| format!("can't copy {} to {}", built.display(), kept.display()))?;
    Ok(kept)
}

/// The runner's last line. nextest prints it once, libtest once for each binary.
#[derive(Default)]
struct Closing {
    nextest: Option<String>,
    binaries: u32,
    passed: u32,
    ignored: u32,
}

impl Closing {
    fn read(&mut self, line: &str) {
        if line.trim_start().starts_with("Summary [") {
            self.nextest = Some(line.trim().to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ok. ") {
            self.binaries += 1;
            self.passed += count(counts, " passed");
            self.ignored += count(counts, " ignored");
        }
    }

    fn line(self) -> Option<String> {
        let Self { nextest, binaries, passed, ignored } = self;
        let libtest = (binaries > 0).then(|| {
            format!("test result: ok. {passed} passed; 0 failed; {ignored} ignored ({binaries} binaries)")
        });
        nextest.or(libtest)
    }
}

/// The number before `word` in "12 passed; 0 failed; …".
fn count(counts: &str, word: &str) -> u32 {
    let part = counts.split("; ").find_map(|part| part.strip_suffix(word));
    part.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(lines: &[&str]) -> Option<String> {
        let mut closing = Closing::default();
        lines.iter().for_each(|line| closing.read(line));
        closing.line()
    }

    #[test]
    fn nextest_prints_its_summary_once() {
        let summary = "     Summary [   0.012s] 45 tests run: 45 passed, 0 skipped";
        assert_eq!(closing(&["PASS x", summary]).as_deref(), Some(summary.trim()));
    }

    #[test]
    fn libtest_is_added_up() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "running 2 tests",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ];
        let expected = "test result: ok. 5 passed; 0 failed; 1 ignored (2 binaries)";
        assert_eq!(closing(&lines).as_deref(), Some(expected));
        assert_eq!(closing(&[]), None);
    }
}
