//! `cargo xtask soak` repeats tests many times, to find rare failures.

use std::time::Duration;

use anyhow::Result;

use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::summary::{self, Row};
use crate::tools::{apt, fixture};

/// Many times the duration of a round with its build. A test that hangs must end.
const LIMIT: Duration = Duration::from_secs(60 * 60);

pub struct Soak {
    pub name: &'static str,
    pub why: &'static str,
    /// One round; rounds count from 1.
    pub round: fn(&Ctx, u32) -> Result<()>,
}

pub const SOAKS: &[Soak] = &[
    Soak {
        name: "tests",
        why: "every test again, property tests with new and with more cases",
        round: tests,
    },
    Soak {
        name: "crash",
        why: "the release build killed 200 times under load, and every accepted task checked",
        round: crash,
    },
    Soak {
        name: "faults",
        why: "1,000 tasks over the AWS adapters while one call in five fails",
        round: faults,
    },
    Soak { name: "decide", why: "200,000 new sequences of commands through decide", round: decide },
    Soak {
        name: "authorization",
        why: "20,000 new random scenarios of approvals, edits, policies, links and crashes",
        round: authorization,
    },
    Soak {
        name: "budget",
        why: "1,000 reservations and 10,000 completions at once over the DynamoDB store",
        round: budget,
    },
    Soak {
        name: "redis",
        why: "a bridge killed 100 times over 10,000 tasks, a server frozen, restarted, failed over",
        round: redis,
    },
    Soak {
        name: "priority",
        why: "P0 among 100,000 waiting P3: 99 of 100 started within 50 ms",
        round: priority,
    },
];

/// Returns false when a round failed. The first failure ends its soak, to keep its traces.
pub fn run(ctx: &Ctx, rounds: u32, only: &[String]) -> Result<bool> {
    let mut rows = Vec::new();
    for soak in summary::chosen(SOAKS, |s| s.name, only)? {
        println!("\n--- {}: {}", soak.name, soak.why);
        let watch = Stopwatch::start();
        let error = (1..=rounds).find_map(|round| {
            println!("round {round} of {rounds}");
            (soak.round)(ctx, round).err().map(|e| e.context(format!("round {round} of {rounds}")))
        });
        rows.push(Row { name: soak.name, took: watch.elapsed(), error });
    }
    Ok(summary::print("soaks", &format!("cargo xtask soak --rounds {rounds}"), &rows, &[]))
}

/// proptest uses a new seed in each run and prints the one that fails.
fn tests(ctx: &Ctx, _round: u32) -> Result<()> {
    let args = ["test", "--workspace", "--quiet", "--locked"];
    cmd::run(ctx.cargo(&args).env("PROPTEST_CASES", "2048"))
}

/// Uses a new seed in each run and prints it; `WATCHBILL_SEED` repeats one.
fn crash(ctx: &Ctx, _round: u32) -> Result<()> {
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "crash::", "--nocapture"]).env("WATCHBILL_ROUNDS", "200");
    cmd::run_within(&mut command, LIMIT)
}

/// Uses a new seed in each run and prints it; `WATCHBILL_SEED` repeats one.
fn faults(ctx: &Ctx, _round: u32) -> Result<()> {
    let emulator = fixture::plain(ctx)?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "aws::faults", "--nocapture"]).env("WATCHBILL_TASKS", "1000");
    command.env("WATCHBILL_AWS_ENDPOINT", emulator.url());
    cmd::run_within(&mut command, LIMIT)
}

/// Each round continues with the seeds after those of the round before.
fn decide(ctx: &Ctx, round: u32) -> Result<()> {
    const SEQUENCES: u64 = 200_000;
    let args = ["test", "--release", "--locked", "--package", "watchbill-core", "--test", "all"];
    let first = 1 + u64::from(round) * SEQUENCES;
    let mut command = ctx.cargo(&args);
    command.args(["--", "decide::"]);
    command.env("WATCHBILL_ROUNDS", SEQUENCES.to_string()).env("WATCHBILL_SEED", first.to_string());
    cmd::run_within(&mut command, LIMIT)
}

/// Each round continues with the seeds after those of the round before.
fn authorization(ctx: &Ctx, round: u32) -> Result<()> {
    const SCENARIOS: u64 = 20_000;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "authorization::", "--nocapture"]);
    let first = u64::from(round) * SCENARIOS;
    command.env("WATCHBILL_STORIES", SCENARIOS.to_string());
    command.env("WATCHBILL_SEED", first.to_string());
    cmd::run_within(&mut command, LIMIT)
}

fn budget(ctx: &Ctx, _round: u32) -> Result<()> {
    let emulator = fixture::plain(ctx)?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "aws::budget", "--nocapture"]).env("WATCHBILL_COMPLETIONS", "10000");
    command.env("WATCHBILL_AWS_ENDPOINT", emulator.url());
    cmd::run_within(&mut command, LIMIT)
}

/// Uses a new seed in each run and prints it; `WATCHBILL_SEED` repeats one.
fn redis(ctx: &Ctx, _round: u32) -> Result<()> {
    apt::need("redis-server", "redis-server")?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    // One after the other: each needs the machine for itself.
    command.args(["--", "bridge::faults", "--nocapture", "--test-threads", "1"]);
    command.env("WATCHBILL_ROUNDS", "100").env("WATCHBILL_TASKS", "10000");
    command.env("WATCHBILL_FROZEN", "30");
    cmd::run_within(&mut command, LIMIT)
}

fn priority(ctx: &Ctx, _round: u32) -> Result<()> {
    let args = ["test", "--release", "--locked", "--package", "watchbill-local", "--test", "all"];
    let mut command = ctx.cargo(&args);
    // One after the other: two loads on one machine would measure each other.
    command.args(["--", "priority::", "--nocapture", "--test-threads", "1"]);
    command.env("WATCHBILL_BACKLOG", "100000").env("WATCHBILL_P0_MS", "50");
    cmd::run_within(&mut command, LIMIT)
}
