//! Measures how fast the Lambda functions start: from exec to the first call of
//! `/invocation/next`, against a mock Runtime API server.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Figure;
use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;

/// A function that has not asked for work by then never will.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the server is polled, which is also the most that a result may be too high.
const POLL_INTERVAL: Duration = Duration::from_micros(50);
/// Selects some functions, comma-separated.
const ONLY: &str = "WATCHBILL_FUNCTIONS";
const NEXT: &str = "GET /2018-06-01/runtime/invocation/next ";

pub fn run(ctx: &Ctx) -> Result<Vec<Figure>> {
    let names = names(ctx)?;
    let mut build = ctx.cargo(&["build", "--profile", "function", "--locked", "--bins"]);
    for name in &names {
        build.args(["-p", &format!("watchbill-{name}")]);
    }
    cmd::run(&mut build)?;
    let mut figures = Vec::new();
    for name in &names {
        let binary = ctx.target.join("function").join(name);
        let (took, peak) = start(&binary).with_context(|| format!("starting {name}"))?;
        let size =
            binary.metadata().with_context(|| format!("can't read {}", binary.display()))?.len();
        for (what, value, unit) in [
            ("exec to its first request for work", took, "ms"),
            ("peak memory until then", peak, "MB"),
            ("binary", size as f64 / 1e6, "MB"),
        ] {
            // The names of figures live as long as this tool.
            figures.push(Figure::new(format!("{name}: {what}").leak(), value, unit));
        }
    }
    Ok(figures)
}

/// The folders of `functions/`, or those named in the environment: building all of them takes
/// half an hour on two cores.
fn names(ctx: &Ctx) -> Result<Vec<String>> {
    if let Ok(named) = std::env::var(ONLY) {
        return Ok(named.split(',').map(str::to_owned).collect());
    }
    let folder: PathBuf = ctx.root.join("functions");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Milliseconds to the first call for work, and peak memory in megabytes until then.
fn start(binary: &Path) -> Result<(f64, f64)> {
    let server =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("can't listen on a free port")?;
    let address = server.local_addr()?;
    let mut command = Command::new(binary);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command.envs(environment()).env("AWS_LAMBDA_RUNTIME_API", address.to_string());
    let watch = Stopwatch::start();
    let mut child = command.spawn().context("can't start it")?;
    let connection = first_call(&server, &mut child);
    let took = watch.elapsed();
    let peak = peak_mb(child.id());
    child.kill().ok();
    child.wait()?;
    // Kept open until here: a function whose call breaks off ends.
    connection?;
    Ok((took.as_secs_f64() * 1e3, peak?))
}

/// Waits for the call and returns its connection, which is never answered.
fn first_call(server: &TcpListener, child: &mut Child) -> Result<BufReader<TcpStream>> {
    server.set_nonblocking(true)?;
    let stream = loop {
        match server.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if let Some(status) = child.try_wait()? {
                    bail!("it exited with {status}");
                }
                std::thread::sleep(POLL_INTERVAL);
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let (mut stream, mut line) = (BufReader::new(stream), String::new());
    stream.read_line(&mut line)?;
    if !line.starts_with(NEXT) {
        bail!("its first request is '{}', not '{NEXT}…'", line.trim());
    }
    Ok(stream)
}

/// The environment that Lambda and the template set. None of it is real.
fn environment() -> Vec<(&'static str, &'static str)> {
    vec![
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "bench"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "bench"),
        ("WATCHBILL_TABLE", "bench"),
        ("WATCHBILL_QUEUES", "http://127.0.0.1:9/0/bench-"),
        ("WATCHBILL_BUS", "bench"),
        ("WATCHBILL_BLOBS", "bench"),
        ("WATCHBILL_STACK", "bench"),
        ("WATCHBILL_TIMEOUT", "60"),
    ]
}

fn peak_mb(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .context("the process status has no VmHWM")?;
    let kilobytes = line.split_whitespace().nth(1).context("VmHWM has no value")?;
    Ok(kilobytes.parse::<f64>()? / 1024.0)
}
