//! Load on the bundle in one process, created by `shared/hosts/local/examples/load.rs`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Figure;
use crate::cmd;
use crate::ctx::Ctx;

/// Tasks of one measurement.
const TASKS: &str = "100000";
/// Finished tasks in the store for the second half of `flat`.
const FILLED: &str = "1000000";

/// Submit → completed against the store alone, at equal concurrency, in turn.
pub fn tasks(ctx: &Ctx) -> Result<Vec<Figure>> {
    let store_128 = rate(&run(ctx, &["store", "128", TASKS])?)?;
    let tasks_128 = rate(&run(ctx, &["tasks", "128", TASKS])?)?;
    let store_32 = rate(&run(ctx, &["store", "32", TASKS])?)?;
    let tasks_32 = rate(&run(ctx, &["tasks", "32", TASKS])?)?;
    Ok(vec![
        Figure::new("submit → completed, 128 in flight", tasks_128, "tasks/s"),
        Figure::new("store alone, 128 in flight", store_128, "tasks/s"),
        Figure::new("share of the store's rate, 128", 100.0 * tasks_128 / store_128, "%"),
        Figure::new("submit → completed, 32 in flight", tasks_32, "tasks/s"),
        Figure::new("store alone, 32 in flight", store_32, "tasks/s"),
        Figure::new("share of the store's rate, 32", 100.0 * tasks_32 / store_32, "%"),
    ])
}

/// The same work with governance and without, in turn.
pub fn governance(ctx: &Ctx) -> Result<Vec<Figure>> {
    let bare = rate(&run(ctx, &["bare", "128", TASKS])?)?;
    let governed = rate(&run(ctx, &["tasks", "128", TASKS])?)?;
    Ok(vec![
        Figure::new("submit → completed with governance, 128 in flight", governed, "tasks/s"),
        Figure::new("the same without governance", bare, "tasks/s"),
        Figure::new("time with governance to time without", bare / governed, ""),
    ])
}

/// One at a time over HTTP, POST to completed.
pub fn one(ctx: &Ctx) -> Result<Vec<Figure>> {
    let report = run(ctx, &["one", "1000"])?;
    Ok(vec![
        Figure::new("POST to completed, median", number(&report, "p50_us")?, "µs"),
        Figure::new("POST to completed, 99 of 100", number(&report, "p99_us")?, "µs"),
        Figure::new("fdatasync of 8 KiB, median", disk(ctx)?, "µs"),
    ])
}

/// The same load on an empty store and on one with a million finished tasks.
pub fn flat(ctx: &Ctx) -> Result<Vec<Figure>> {
    let empty = rate(&run(ctx, &["tasks", "128", TASKS])?)?;
    let folder = ctx.fresh_folder("bench-data")?;
    print(ctx, &folder, &["fill", FILLED])?;
    let report = print(ctx, &folder, &["tasks", "128", TASKS])?;
    let full = rate(&report)?;
    Ok(vec![
        Figure::new("128 in flight, empty store", empty, "tasks/s"),
        Figure::new("128 in flight, 1,000,000 finished tasks stored", full, "tasks/s"),
        Figure::new("share of the empty store's rate", 100.0 * full / empty, "%"),
        Figure::new("resident memory with the full store", number(&report, "rss_mb")?, "MB"),
    ])
}

/// Lists that callers read without pause next to a caller of small responses: the name in the
/// report, and the names of the two figures.
const LISTS: &[(&str, &str, &str)] = &[
    ("tasks", "next to /tasks of 192 KB each, median", "next to /tasks, 99 of 100"),
    ("events", "next to /events of an unused type, median", "next to /events, 99 of 100"),
    ("audit", "next to /audit of an unknown actor, median", "next to /audit, 99 of 100"),
    ("timeline", "next to a timeline of 1,000 changes, median", "next to a timeline, 99 of 100"),
    ("stats", "next to /stats, median", "next to /stats, 99 of 100"),
];

/// The latency of a small read next to four callers of an old and large list, as a multiple of
/// its latency alone.
pub fn lists(ctx: &Ctx) -> Result<Vec<Figure>> {
    let report = run(ctx, &["lists"])?;
    let of = |name: &str| number(&report, name);
    let (p50, p99) = (of("alone_p50_us")?, of("alone_p99_us")?);
    let mut figures = vec![
        Figure::new("GET /tasks/{id} alone, median", p50, "µs"),
        Figure::new("GET /tasks/{id} alone, 99 of 100", p99, "µs"),
    ];
    for (name, median, most) in LISTS {
        figures.push(Figure::new(median, of(&format!("{name}_p50_us"))? / p50, "×"));
        figures.push(Figure::new(most, of(&format!("{name}_p99_us"))? / p99, "×"));
    }
    let largest = of("tasks_largest_bytes")? / f64::from(1 << 20);
    figures.push(Figure::new("largest page of /tasks", largest, "MiB"));
    Ok(figures)
}

fn run(ctx: &Ctx, args: &[&str]) -> Result<Value> {
    let folder = ctx.fresh_folder("bench-data")?;
    let report = print(ctx, &folder, args);
    ctx.fresh_folder("bench-data")?;
    report
}

fn print(ctx: &Ctx, folder: &PathBuf, args: &[&str]) -> Result<Value> {
    let build = ["build", "--release", "--locked", "-p", "watchbill-local", "--example", "load"];
    cmd::run(&mut ctx.cargo(&build))?;
    let mut command = ctx.command(ctx.target.join("release/examples/load"));
    command.arg(args[0]).arg(folder).args(&args[1..]);
    let text = cmd::output(&mut command)?;
    serde_json::from_str(&text).with_context(|| format!("load printed no JSON but: {text}"))
}

fn rate(report: &Value) -> Result<f64> {
    number(report, "tasks_per_second")
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report.get(name).and_then(Value::as_f64).with_context(|| format!("load printed no {name}"))
}

fn disk(ctx: &Ctx) -> Result<f64> {
    Ok(super::percentile(&super::disk::fdatasyncs(ctx)?, 50))
}
