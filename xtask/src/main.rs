//! The project's developer commands: `cargo xtask test|soak|bench|dist`.
//!
//! To add a stage, add a row to `stages::STAGES`; a soak, to `soak::SOAKS`; a benchmark, to
//! `bench::BENCHES` and its two markers to docs/benchmarks.md. `tools` (`apt`, `venv`, `rustup`)
//! installs the programs of a stage, or reports how to.

mod bench;
mod cmd;
mod ctx;
mod dist;
mod soak;
mod stages;
mod stopwatch;
mod summary;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use ctx::Ctx;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's developer commands"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything that a change must pass
    Test {
        /// Run only this stage; may be repeated
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// List the stages and exit
        #[arg(long)]
        list: bool,
        /// Stop at the first stage that fails
        #[arg(long)]
        fail_fast: bool,
    },
    /// Repeat tests many times, to find rare failures
    Soak {
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Run only this soak; may be repeated
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Measure, and write the figures to docs/benchmarks.md
    Bench {
        /// Run only this benchmark
        name: Option<String>,
        /// List the benchmarks and exit
        #[arg(long)]
        list: bool,
        /// A folder of logs; `redact` reports how many of their lines it changes
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Build the binary that is shipped, and print its size
    Dist,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `Ok(false)` means that something failed and was reported.
fn run(cli: Cli) -> Result<bool> {
    let mut ctx = Ctx::find()?;
    match cli.task {
        Task::Test { list: true, .. } => {
            summary::list(stages::STAGES.iter().map(|s| (s.name, s.why)));
            Ok(true)
        }
        Task::Test { only, fail_fast, .. } => stages::run(&ctx, &only, fail_fast),
        Task::Soak { rounds, only } => soak::run(&ctx, rounds, &only),
        Task::Bench { list: true, .. } => {
            summary::list(bench::BENCHES.iter().map(|b| (b.name, b.why)));
            Ok(true)
        }
        Task::Bench { name, data, .. } => {
            ctx.data = data;
            bench::run(&ctx, name.as_deref()).map(|()| true)
        }
        Task::Dist => dist::run(&ctx).map(|()| true),
    }
}
