//! The HTTP API against its own OpenAPI document, by requests that nobody would think of.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Report;
use crate::cmd;
use crate::ctx::Ctx;
use crate::tools::proc::{self, Server};
use crate::tools::venv;

/// Unlike anything in use; the server is on this machine alone and its data are thrown away.
const KEY: &str = "conformance-key-of-a-server-that-lives-for-a-minute";

/// Many times what it takes; a server that hangs must not hang the run.
const LIMIT: Duration = Duration::from_secs(15 * 60);

pub fn run(ctx: &Ctx) -> Result<Report> {
    // Before the build: what is missing on this machine should be told at once.
    venv::need(ctx, "schemathesis")?;
    let server = serve(ctx)?;
    let checked = schemathesis(ctx, &server.url(), KEY);
    if checked.is_err() {
        println!("the server's last words:\n{}", server.tail());
    }
    checked?;
    // After thousands of odd requests it must still end as a server should.
    let status = server.terminate(Duration::from_secs(30))?;
    if !status.success() {
        bail!("watchbill was asked to end (SIGTERM) and ended with {status} instead of 0");
    }
    Ok(Report::new())
}

/// A server with nothing in it, on a free port.
fn serve(ctx: &Ctx) -> Result<Server> {
    cmd::run(&mut ctx.cargo(&["build", "--package", "watchbill", "--locked"]))?;
    let port = proc::free_port()?;
    let data = ctx.fresh_folder("http-data")?;
    let mut command = ctx.command(ctx.target.join("debug/watchbill"));
    command.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string(), "--data"]);
    command.arg(&data).env("RATE_LIMITS", "off");
    command.env("ORCHESTRATOR_API_KEY_ADMIN", format!("{KEY}:admin"));
    Server::start(ctx, "http", command, port, "/health", Duration::from_secs(30))
}

/// Every check that schemathesis knows, on every operation, bounded in cases and in time.
pub fn schemathesis(ctx: &Ctx, url: &str, key: &str) -> Result<()> {
    let mut command = ctx.command(venv::need(ctx, "schemathesis")?);
    command.arg("run").arg(format!("{url}/openapi.json"));
    command.arg("--header").arg(format!("X-API-Key: {key}"));
    command.args(["--checks", "all", "--max-examples", "25"]);
    // A call may be held for 20 s where it is asked to wait for news.
    command.args(["--request-timeout", "30", "--max-response-time", "25"]);
    // The same requests in each run: what a change broke shows with that change.
    command.args(["--generation-deterministic", "--continue-on-failure", "--no-color"]);
    command.current_dir(ctx.folder("schemathesis")?);
    // Its own --max-time is no bound: it goes on until that is spent.
    cmd::run_within(&mut command, LIMIT)
        .context("the API does not keep to its OpenAPI document, see above")
}
