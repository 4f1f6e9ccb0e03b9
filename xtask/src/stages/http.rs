//! Checks the HTTP API against its own OpenAPI document, with generated requests.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Report;
use crate::cmd;
use crate::ctx::Ctx;
use crate::tools::proc::{self, Server};
use crate::tools::venv;

/// Not used anywhere else. The server is only on this machine, and its data are deleted.
const KEY: &str = "conformance-key-of-a-server-that-lives-for-a-minute";

/// Many times the usual duration. A server that hangs must not block the run.
const LIMIT: Duration = Duration::from_secs(15 * 60);

pub fn run(ctx: &Ctx) -> Result<Report> {
    // Before the build, so that a missing program is reported at once.
    venv::need(ctx, "schemathesis")?;
    let server = serve(ctx)?;
    let checked = schemathesis(ctx, &server.url(), KEY);
    if checked.is_err() {
        println!("the end of the server's log:\n{}", server.tail());
    }
    checked?;
    // After thousands of malformed requests it must still shut down cleanly.
    let status = server.terminate(Duration::from_secs(30))?;
    if !status.success() {
        bail!("watchbill exited with {status} after SIGTERM, not with 0");
    }
    Ok(Report::new())
}

/// An empty server on a free port.
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

/// Runs every check of schemathesis on every operation, bounded in cases and in time.
pub fn schemathesis(ctx: &Ctx, url: &str, key: &str) -> Result<()> {
    let mut command = ctx.command(venv::need(ctx, "schemathesis")?);
    command.arg("run").arg(format!("{url}/openapi.json"));
    command.arg("--header").arg(format!("X-API-Key: {key}"));
    command.args(["--checks", "all", "--max-examples", "25"]);
    // A call that waits for news may be held for 20 s.
    command.args(["--request-timeout", "30", "--max-response-time", "25"]);
    // The same requests in each run, so that a failure shows with the change that caused it.
    command.args(["--generation-deterministic", "--continue-on-failure", "--no-color"]);
    command.current_dir(ctx.folder("schemathesis")?);
    // Its own --max-time is no limit: it continues until that time is used up.
    cmd::run_within(&mut command, LIMIT)
        .context("the API does not conform to its OpenAPI document, see above")
}
