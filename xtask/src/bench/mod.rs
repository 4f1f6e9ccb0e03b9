//! `cargo xtask bench` measures, and writes the figures into docs/benchmarks.md.
//!
//! A benchmark returns figures; the median of several runs counts. Its section of the file,
//! between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`, names the command, date and
//! machine.

mod disk;
mod functions;
mod handlers;
mod load;
mod machine;
mod redis;
mod report;
mod server;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::cmd;
use crate::ctx::Ctx;
use crate::summary;
use machine::Machine;

pub struct Bench {
    pub name: &'static str,
    pub why: &'static str,
    /// How often it is run. An odd number has a median that was measured.
    pub runs: usize,
    /// One run. Each run names the same figures in the same order.
    pub run: fn(&Ctx) -> Result<Vec<Figure>>,
}

pub struct Figure {
    pub what: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

impl Figure {
    pub fn new(what: &'static str, value: f64, unit: &'static str) -> Self {
        Self { what, unit, value }
    }
}

pub const BENCHES: &[Bench] = &[
    Bench {
        name: "disk",
        why: "one durable write of 8 KiB: the lower bound for every accepted task",
        runs: 5,
        run: disk::run,
    },
    Bench {
        name: "tasks",
        why: "in process, submit → completed with an agent that does nothing",
        runs: 5,
        run: load::tasks,
    },
    Bench {
        name: "governance",
        why: "in process, what governance costs a plain task",
        runs: 7,
        run: load::governance,
    },
    Bench {
        name: "http",
        why: "POST /tasks by wrk with 16 connections, accepting only; small reads next to lists",
        runs: 5,
        run: server::http,
    },
    Bench {
        name: "dist",
        why: "the shipped binary next to the release build: its size, and POST /tasks in turn",
        runs: 5,
        run: server::shipped,
    },
    Bench {
        name: "one",
        why: "one task at a time over HTTP, POST to completed",
        runs: 5,
        run: load::one,
    },
    Bench {
        name: "flat",
        why: "the same load with a million finished tasks stored, and the memory it takes",
        runs: 1,
        run: load::flat,
    },
    Bench {
        name: "redis",
        why: "tasks imported from a Redis queue, run by an agent that does nothing, finished there",
        runs: 5,
        run: redis::run,
    },
    Bench {
        name: "start",
        why: "start to first response, and memory when idle",
        runs: 9,
        run: server::start,
    },
    Bench {
        name: "feed",
        why: "changes per second that the router handles from one shard",
        runs: 5,
        run: handlers::feed,
    },
    Bench {
        name: "handler",
        why: "the API's own time for POST /tasks, over a store in memory",
        runs: 5,
        run: handlers::api,
    },
    Bench {
        name: "redact",
        why: "what redaction costs: clean text, logs, JSON, hostile texts of 1 and 4 MB",
        runs: 3,
        run: handlers::redact,
    },
    Bench {
        name: "functions",
        why: "start of each Lambda function, its memory and its size",
        runs: 21,
        run: functions::run,
    },
];

const FILE: &str = "docs/benchmarks.md";

pub fn run(ctx: &Ctx, only: Option<&str>) -> Result<()> {
    let only: Vec<String> = only.map(str::to_owned).into_iter().collect();
    let chosen = summary::chosen(BENCHES, |b| b.name, &only)?;
    let machine = Machine::look(ctx)?;
    let date = cmd::output(ctx.command("date").args(["--utc", "+%F"]))?.trim().to_owned();
    for bench in chosen {
        println!("--- {}: {}", bench.name, bench.why);
        let rows = measure(bench.runs, || (bench.run)(ctx))?;
        let section = report::section(bench, &date, &machine, &rows);
        println!("{section}");
        let path = ctx.root.join(FILE);
        let old = fs::read_to_string(&path).with_context(|| format!("can't read {FILE}"))?;
        let new = report::replace(&old, bench.name, &section).with_context(|| {
            let name = bench.name;
            format!(
                "{FILE} has no markers for it: add <!-- bench:{name} --> and <!-- /bench:{name} -->"
            )
        })?;
        fs::write(&path, new).with_context(|| format!("can't write {FILE}"))?;
    }
    Ok(())
}

/// A figure over all runs.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub what: &'static str,
    pub unit: &'static str,
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

fn measure(runs: usize, mut run: impl FnMut() -> Result<Vec<Figure>>) -> Result<Vec<Row>> {
    let mut order = Vec::new();
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=runs {
        for figure in run().with_context(|| format!("run {round} of {runs}"))? {
            if !values.contains_key(figure.what) {
                order.push((figure.what, figure.unit));
            }
            values.entry(figure.what).or_default().push(figure.value);
        }
    }
    let row = |(what, unit)| {
        let mut sorted = values.remove(what)?;
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        Some(Row { what, unit, median: percentile(&sorted, 50), lowest, highest })
    };
    Ok(order.into_iter().filter_map(row).collect())
}

/// The smallest measured value that `percent` of all don't exceed (nearest rank). `sorted` is
/// ascending and not empty.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_was_measured() {
        let mut values = [9.0, 1.0, 5.0].into_iter();
        let rows = measure(3, || {
            let value = values.next().unwrap_or_default();
            Ok(vec![Figure::new("rate", value, "1/s"), Figure::new("size", 2.0, "KiB")])
        })
        .unwrap();
        let rate = Row { what: "rate", unit: "1/s", median: 5.0, lowest: 1.0, highest: 9.0 };
        let size = Row { what: "size", unit: "KiB", median: 2.0, lowest: 2.0, highest: 2.0 };
        assert_eq!(rows, [rate, size], "in the order in which they were named");
    }

    #[test]
    fn a_failed_run_is_named() {
        let error = measure(3, || anyhow::bail!("no disk")).unwrap_err();
        assert_eq!(format!("{error:#}"), "run 1 of 3: no disk");
    }

    #[test]
    fn percentiles_go_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[1.0, 2.0], 0), 1.0);
    }
}
