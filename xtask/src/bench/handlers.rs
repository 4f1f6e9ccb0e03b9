//! Measures handlers in their own process, without their adapters.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Figure;
use crate::cmd;
use crate::ctx::Ctx;

/// How many changes of one shard the router handles per second.
pub fn feed(ctx: &Ctx) -> Result<Vec<Figure>> {
    let figures = example(ctx, "watchbill-router", "feed", &[])?;
    let rate = number(&figures, "changes_per_s")?;
    Ok(vec![Figure::new("changes routed, one shard", rate, "1/s")])
}

/// The API's time for one accepted task.
pub fn api(ctx: &Ctx) -> Result<Vec<Figure>> {
    // Without its Lambda side, which takes minutes to build and is not measured here.
    let figures = example(ctx, "watchbill-api", "handler", &["--no-default-features"])?;
    Ok(vec![
        Figure::new("POST /tasks, median", number(&figures, "p50_us")?, "µs"),
        Figure::new("POST /tasks, 99 of 100", number(&figures, "p99_us")?, "µs"),
    ])
}

/// Redaction alone, in one thread; also over a folder of logs, if one is given.
pub fn redact(ctx: &Ctx) -> Result<Vec<Figure>> {
    let folder = ctx.data.as_ref().map(|data| ctx.root.join(data).display().to_string());
    let more: Vec<&str> = folder.iter().flat_map(|folder| ["--", "--data", folder]).collect();
    let figures = example(ctx, "watchbill-redact", "redact", &more)?;
    let mut rows = vec![
        Figure::new("clean text", number(&figures, "clean")?, "MB/s"),
        Figure::new("a plain log", number(&figures, "log")?, "MB/s"),
        Figure::new("a log with a URL a line", number(&figures, "url")?, "MB/s"),
        Figure::new("JSON", number(&figures, "json")?, "MB/s"),
        Figure::new("a log with two secrets a line", number(&figures, "secrets")?, "MB/s"),
        Figure::new("the slowest of the hostile texts, 4 MB", number(&figures, "hostile")?, "MB/s"),
        Figure::new("4 MB to 1 MB, the worst of them", number(&figures, "growth")?, "times"),
    ];
    if folder.is_some() {
        rows.push(Figure::new("lines changed in --data", number(&figures, "changed")?, "%"));
    }
    Ok(rows)
}

/// What an example prints as JSON on its last line.
fn example(ctx: &Ctx, package: &str, name: &str, more: &[&str]) -> Result<Value> {
    let mut command = ctx.cargo(&["run", "--release", "--locked", "--quiet"]);
    command.args(["-p", package, "--example", name]).args(more);
    let text = cmd::output(&mut command)?;
    let last = text.lines().last().context("the example printed nothing")?;
    serde_json::from_str(last).with_context(|| format!("'{last}' is not JSON"))
}

fn number(figures: &Value, name: &str) -> Result<f64> {
    figures[name].as_f64().with_context(|| format!("no figure '{name}' in {figures}"))
}
