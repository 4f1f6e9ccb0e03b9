//! `cargo xtask soak`: the same again and again, for what happens once in many runs.

use anyhow::Result;

use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::summary::{self, Row};

pub struct Soak {
    pub name: &'static str,
    pub why: &'static str,
    /// One round; rounds count from 1.
    pub round: fn(&Ctx, u32) -> Result<()>,
}

pub const SOAKS: &[Soak] = &[Soak {
    name: "tests",
    why: "every test again, property tests with new and with more cases",
    round: tests,
}];

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
