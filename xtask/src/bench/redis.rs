//! The bundle with a Redis, under load from `shared/hosts/local/examples/redis.rs`.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Figure;
use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;
use crate::tools::apt;
use crate::tools::proc::free_port;

/// Tasks in the queue at the start.
const TASKS: &str = "50000";
/// Tasks that are enqueued one at a time.
const ONE: &str = "1000";

/// A Redis of this run, ended with it.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(ctx: &Ctx) -> Result<Self> {
        let program = apt::need("redis-server", "redis-server")?;
        let (folder, port) = (ctx.fresh_folder("bench-redis")?, free_port()?);
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder).stdout(Stdio::null()).stdin(Stdio::null());
        let child = command.spawn().context("can't start redis-server")?;
        let redis = Self { child, port };
        let watch = Stopwatch::start();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if watch.elapsed() > Duration::from_secs(10) {
                bail!("redis-server does not listen on port {port} after ten seconds");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tasks imported from the queue, run, and finished there; and how soon a single one starts.
pub fn run(ctx: &Ctx) -> Result<Vec<Figure>> {
    let drained = print(ctx, "drain", TASKS)?;
    let one = print(ctx, "one", ONE)?;
    Ok(vec![
        Figure::new(
            "imported from the queue, run and finished there",
            number(&drained, "tasks_per_second")?,
            "tasks/s",
        ),
        Figure::new("enqueued to started, median", number(&one, "p50_us")? / 1_000.0, "ms"),
        Figure::new("enqueued to started, 99 of 100", number(&one, "p99_us")? / 1_000.0, "ms"),
    ])
}

fn print(ctx: &Ctx, what: &str, tasks: &str) -> Result<Value> {
    let build = ["build", "--release", "--locked", "-p", "watchbill-local", "--example", "redis"];
    cmd::run(&mut ctx.cargo(&build))?;
    let redis = Redis::start(ctx)?;
    let folder = ctx.fresh_folder("bench-data")?;
    let mut command = ctx.command(ctx.target.join("release/examples/redis"));
    command.arg(what).arg(format!("redis://127.0.0.1:{}", redis.port)).arg(&folder).arg(tasks);
    let text = cmd::output(&mut command)?;
    ctx.fresh_folder("bench-data")?;
    serde_json::from_str(&text).with_context(|| format!("redis printed no JSON but: {text}"))
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report.get(name).and_then(Value::as_f64).with_context(|| format!("redis printed no {name}"))
}
