//! Measures the binary from outside: the release build, and next to it the one that is shipped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Figure, load};
use crate::cmd;
use crate::ctx::Ctx;
use crate::dist;
use crate::stopwatch::Stopwatch;
use crate::tools::apt;
use crate::tools::proc::{self, Server};

const KEY: &str = "bench-key-of-a-server-that-lives-for-a-minute";

/// `POST /tasks` by wrk: 16 connections, tasks are only accepted. Then lists of old, large and
/// hostile data.
pub fn http(ctx: &Ctx) -> Result<Vec<Figure>> {
    let text = accepted(ctx, &release(ctx)?)?;
    let mut figures = vec![
        Figure::new("POST /tasks accepted, 16 connections", field(&text, "Requests/sec:")?, "1/s"),
        Figure::new("response time, median", field(&text, "50%")?, "ms"),
        Figure::new("response time, 99 of 100", field(&text, "99%")?, "ms"),
    ];
    figures.extend(load::lists(ctx)?);
    Ok(figures)
}

/// The same load on the release build and on the shipped binary, in turn.
pub fn shipped(ctx: &Ctx) -> Result<Vec<Figure>> {
    let (release, shipped) = (release(ctx)?, dist::build(ctx)?.binary);
    let rate = |binary| field(&accepted(ctx, binary)?, "Requests/sec:");
    // Both first and last, so that a machine that becomes slower counts against neither.
    let (first, second) = (rate(&release)?, rate(&shipped)?);
    let (third, fourth) = (rate(&shipped)?, rate(&release)?);
    let (of_release, of_shipped) = ((first + fourth) / 2.0, (second + third) / 2.0);
    let megabytes = |path: &Path| path.metadata().map(|data| data.len() as f64 / 1e6);
    Ok(vec![
        Figure::new("release build: size", megabytes(&release)?, "MB"),
        Figure::new("shipped binary: size", megabytes(&shipped)?, "MB"),
        Figure::new("release build: POST /tasks accepted", of_release, "1/s"),
        Figure::new("shipped binary: POST /tasks accepted", of_shipped, "1/s"),
        Figure::new("shipped to release", of_shipped / of_release, "times"),
    ])
}

/// What wrk prints about ten seconds of `POST /tasks` on a new server.
fn accepted(ctx: &Ctx, binary: &Path) -> Result<String> {
    let wrk = apt::need("wrk", "wrk")?;
    let (command, port) = command(ctx, binary)?;
    let server = Server::start(ctx, "bench", command, port, "/health", Duration::from_secs(10))?;
    let script = ctx.folder("bench")?.join("post.lua");
    fs::write(&script, post_script()).context("can't write the script for wrk")?;
    let mut load = Command::new(wrk);
    load.args(["-t1", "-c16", "-d10s", "--latency", "-s"]).arg(&script);
    load.arg(format!("{}/tasks", server.url()));
    let text = cmd::output(&mut load)?;
    if text.contains("Non-2xx") {
        bail!("not all responses were 200:\n{text}");
    }
    Ok(text)
}

/// The time from starting the process to its first response, and its memory after that.
pub fn start(ctx: &Ctx) -> Result<Vec<Figure>> {
    let (mut command, port) = command(ctx, &release(ctx)?)?;
    command.env_remove("WATCHBILL_AGENTS").stdout(std::process::Stdio::null());
    let watch = Stopwatch::start();
    let mut child = command.spawn().context("can't start watchbill")?;
    let mut answered = false;
    while !answered && watch.elapsed() < Duration::from_secs(10) {
        answered = ask(port).is_ok();
    }
    let first = watch.elapsed();
    // Wait until its first task is finished.
    std::thread::sleep(Duration::from_secs(3));
    let memory = resident_mb(child.id());
    child.kill()?;
    child.wait()?;
    if !answered {
        bail!("watchbill did not respond within ten seconds");
    }
    Ok(vec![
        Figure::new("start to first response", first.as_secs_f64() * 1e3, "ms"),
        Figure::new("resident memory, idle after start", memory?, "MB"),
    ])
}

fn release(ctx: &Ctx) -> Result<PathBuf> {
    cmd::run(&mut ctx.cargo(&["build", "--release", "--locked", "-p", "watchbill"]))?;
    Ok(ctx.target.join("release/watchbill"))
}

fn command(ctx: &Ctx, binary: &Path) -> Result<(Command, u16)> {
    let port = proc::free_port()?;
    let data = ctx.fresh_folder("bench-data")?;
    let mut command = ctx.command(binary);
    command.args(["serve", "--port", &port.to_string(), "--data"]).arg(data);
    command.env("RATE_LIMITS", "off").env("WATCHBILL_AGENTS", "off");
    command.env("ORCHESTRATOR_API_KEY_ADMIN", format!("{KEY}:admin"));
    Ok((command, port))
}

fn post_script() -> String {
    format!(
        "wrk.method = \"POST\"\n\
         wrk.headers[\"Content-Type\"] = \"application/json\"\n\
         wrk.headers[\"X-API-Key\"] = \"{KEY}\"\n\
         wrk.body = '{{\"type\":\"monitor\",\"payload\":{{\"service\":\"system\"}}}}'\n"
    )
}

/// The number after a word in the output of wrk; times become milliseconds.
fn field(text: &str, word: &str) -> Result<f64> {
    let mut words = text.split_whitespace().skip_while(|w| *w != word);
    let value = words.nth(1).with_context(|| format!("wrk printed no {word}:\n{text}"))?;
    let (number, scale) = match value {
        v if v.ends_with("us") => (v.trim_end_matches("us"), 1e-3),
        v if v.ends_with("ms") => (v.trim_end_matches("ms"), 1.0),
        v if v.ends_with('s') => (v.trim_end_matches('s'), 1e3),
        v => (v, 1.0),
    };
    let number: f64 = number.parse().with_context(|| format!("'{value}' after {word}"))?;
    Ok(number * scale)
}

fn ask(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if &head != b"HTTP/1.1 200" {
        bail!("the response is not 200");
    }
    Ok(())
}

fn resident_mb(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("the process status has no VmRSS")?;
    let kilobytes = line.split_whitespace().nth(1).context("VmRSS has no value")?;
    Ok(kilobytes.parse::<f64>()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_understood() {
        let text = "  Latency Distribution\n     50%    1.25ms\n     99%  640.00us\nRequests/sec:  14231.50\n";
        assert_eq!(field(text, "50%").unwrap(), 1.25);
        assert_eq!(field(text, "99%").unwrap(), 0.64);
        assert_eq!(field(text, "Requests/sec:").unwrap(), 14231.5);
        assert!(field(text, "75%").is_err());
    }
}
