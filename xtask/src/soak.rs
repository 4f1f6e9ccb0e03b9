//! `cargo xtask soak`: the same again and again, for what happens once in many runs.

use std::time::Duration;

use anyhow::Result;

use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::summary::{self, Row};
use crate::tools::{apt, bed};

/// Many times what a round takes, with its build; what hangs must not hang the night.
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
        why: "the release build killed 200 times under load, and what it accepted audited",
        round: crash,
    },
    Soak {
        name: "faults",
        why: "1,000 tasks over the AWS adapters while one call in five goes wrong",
        round: faults,
    },
    Soak {
        name: "decide",
        why: "200,000 other sequences of commands through what decides",
        round: decide,
    },
    Soak {
        name: "leave",
        why: "20,000 other stories of approvals, edits, policies, links and deaths",
        round: leave,
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

/// False when a round failed; the first one ends its soak, as its traces are what is wanted.
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

/// proptest takes a new seed in each run and prints the one that fails.
fn tests(ctx: &Ctx, _round: u32) -> Result<()> {
    let args = ["test", "--workspace", "--quiet", "--locked"];
    cmd::run(ctx.cargo(&args).env("PROPTEST_CASES", "2048"))
}

/// A new seed in each run, which it prints; `WATCHBILL_SEED` repeats one.
fn crash(ctx: &Ctx, _round: u32) -> Result<()> {
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "crash::", "--nocapture"]).env("WATCHBILL_ROUNDS", "200");
    cmd::run_within(&mut command, LIMIT)
}

/// With a new seed in each run, which it prints; `WATCHBILL_SEED` repeats one.
fn faults(ctx: &Ctx, _round: u32) -> Result<()> {
    let emulator = bed::plain(ctx)?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "aws::faults", "--nocapture"]).env("WATCHBILL_TASKS", "1000");
    command.env("WATCHBILL_AWS_ENDPOINT", emulator.url());
    cmd::run_within(&mut command, LIMIT)
}

/// Each round goes on where the one before ended.
fn decide(ctx: &Ctx, round: u32) -> Result<()> {
    const SEQUENCES: u64 = 200_000;
    let args = ["test", "--release", "--locked", "--package", "watchbill-core", "--test", "all"];
    let first = 1 + u64::from(round) * SEQUENCES;
    let mut command = ctx.cargo(&args);
    command.args(["--", "decide::"]);
    command.env("WATCHBILL_ROUNDS", SEQUENCES.to_string()).env("WATCHBILL_SEED", first.to_string());
    cmd::run_within(&mut command, LIMIT)
}

/// Each round goes on where the one before ended.
fn leave(ctx: &Ctx, round: u32) -> Result<()> {
    const STORIES: u64 = 20_000;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "leave::", "--nocapture"]);
    let first = u64::from(round) * STORIES;
    command.env("WATCHBILL_STORIES", STORIES.to_string());
    command.env("WATCHBILL_SEED", first.to_string());
    cmd::run_within(&mut command, LIMIT)
}

fn budget(ctx: &Ctx, _round: u32) -> Result<()> {
    let emulator = bed::plain(ctx)?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    command.args(["--", "aws::budget", "--nocapture"]).env("WATCHBILL_COMPLETIONS", "10000");
    command.env("WATCHBILL_AWS_ENDPOINT", emulator.url());
    cmd::run_within(&mut command, LIMIT)
}

/// With a new seed in each run, which it prints; `WATCHBILL_SEED` repeats one.
fn redis(ctx: &Ctx, _round: u32) -> Result<()> {
    apt::need("redis-server", "redis-server")?;
    let args = ["test", "--release", "--locked", "--package", "watchbill-tests"];
    let mut command = ctx.cargo(&args);
    // One after the other: each wants the machine for itself.
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
