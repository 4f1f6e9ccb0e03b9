//! The command line: a client of the HTTP API, and the way to start the server.
//!
//! - `args`: the arguments · `exit`: the exit codes.
//! - `client`: one call with the safe retries · `failure`: errors as text.
//! - `submit`, `wait`, `watch`, `tasks`, `governance`, `policy`, `admin`, `audit`, `backup`,
//!   `bridge`: the commands.
//! - `http_backend`: the backend of the bridge, over HTTP.
//! - `out`, `table`, `card`, `text`, `view`: how responses are shown.
//! - `context`: streams, time, randomness; tests replace them.
//!
//! To add a command: add a variant to `args::Command`, its arm in `dispatch`, and a case in
//! `tests/cli`.

mod admin;
pub mod args;
mod audit;
mod backup;
mod bridge;
mod card;
pub(crate) mod client;
pub mod context;
pub mod exit;
pub(crate) mod failure;
mod governance;
pub mod http_backend;
pub mod out;
mod payload;
mod policy;
mod submit;
mod table;
mod tasks;
mod text;
mod view;
mod wait;
mod watch;

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{ApprovalsCommand, Cli, Command, Global};
use client::{Client, is_local, parse_url};
use context::CliContext;
use exit::Exit;
use failure::Failure;
use out::Output;
use watchbill_local::bridge::config::BridgeArgs;
use watchbill_local::serve::args::ServeArgs;

/// Runs the command line of this process and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => {
            // Printing fails only if the output is closed.
            let _ = e.print();
            return usage(&e) as u8;
        }
    };
    match cli.command {
        None => serve_by_default(args),
        Some(Command::Serve(serve)) => serve_until_stopped(serve),
        Some(Command::Bridge(args)) if !args.check => bridge_until_stopped(&cli.global, &args),
        Some(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(run(cli, CliContext::of_this_process())) as u8,
                Err(e) => no_runtime(&e),
            }
        }
    }
}

fn usage(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Fine,
        _ => Exit::Usage,
    }
}

/// Parses as if `serve` had been typed, so that its environment variables apply too.
fn serve_by_default(mut args: Vec<OsString>) -> u8 {
    args.push("serve".into());
    match Cli::try_parse_from(args).map(|cli| cli.command) {
        Ok(Some(Command::Serve(serve))) => serve_until_stopped(serve),
        Ok(_) => serve_until_stopped(ServeArgs::default()),
        Err(e) => {
            let _ = e.print();
            usage(&e) as u8
        }
    }
}

fn serve_until_stopped(serve: ServeArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return no_runtime(&e),
    };
    match runtime.block_on(watchbill_local::serve::run(serve)) {
        Ok(()) => Exit::Fine as u8,
        Err(e) => {
            CliContext::of_this_process().into_out(false, false).error(&format!("{e:#}"));
            match e.is::<watchbill_local::serve::BadConfig>() {
                true => Exit::Usage as u8,
                false => Exit::Server as u8,
            }
        }
    }
}

fn bridge_until_stopped(global: &Global, args: &BridgeArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return no_runtime(&e),
    };
    let context = CliContext::of_this_process();
    match runtime.block_on(bridge::run(global, args, context)) {
        Ok(()) => Exit::Fine as u8,
        Err(failure) => {
            let mut out = CliContext::of_this_process().into_out(false, global.no_color);
            settle(Err(failure), &mut out) as u8
        }
    }
}

fn no_runtime(error: &std::io::Error) -> u8 {
    let text = format!("could not start the runtime: {error}");
    CliContext::of_this_process().into_out(false, false).error(&text);
    Exit::Server as u8
}

/// Runs a parsed command other than `serve` in a context and returns its exit code.
pub async fn run(cli: Cli, mut context: CliContext) -> Exit {
    let stdin = std::mem::replace(&mut context.stdin, Box::new(std::io::empty()));
    let (clock, entropy) = (context.clock.clone(), context.entropy.clone());
    let (data, interrupt, now) = (context.data.clone(), context.interrupt, clock.now());
    let mut out = context.into_out(cli.global.json, cli.global.no_color);
    let client = connect(&cli.global, &data, &mut out)
        .and_then(|(url, key)| Client::new(url, key, clock, entropy));
    let outcome = match (cli.command, client) {
        (Some(Command::Completions { shell }), _) => completions(shell, &mut out),
        (Some(Command::Policy { command }), _) => policy::policy(command, now, &mut out),
        (Some(Command::Backup(args)), _) => backup::backup(&args, &data, now, &mut out),
        (_, Err(failure)) => Err(failure),
        (Some(command), Ok(client)) => {
            dispatch(command, Session { client: &client, out: &mut out, stdin, interrupt }).await
        }
        (None, _) => Err(Failure::Usage("no command was given".to_owned())),
    };
    let outcome = outcome.and_then(|()| Ok(out.flush()?));
    settle(outcome, &mut out)
}

struct Session<'a> {
    client: &'a Client,
    out: &'a mut Output,
    stdin: Box<dyn std::io::Read>,
    interrupt: fn() -> futures_util::future::BoxFuture<'static, ()>,
}

async fn dispatch(command: Command, s: Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Submit(args) => submit::submit(s, args).await,
        Command::Get(args) => tasks::get(s, args).await,
        Command::List(args) => tasks::list(s, args).await,
        Command::Watch(args) => watch::follow(s.client, s.out, &args).await,
        Command::Approve { id } => tasks::approve(s, &id).await,
        Command::Reject { id, reason } => tasks::reject(s, &id, &reason).await,
        Command::Approvals { command: Some(ApprovalsCommand::Show { id }), .. } => {
            governance::approval(s, &id).await
        }
        Command::Approvals { history: false, .. } => tasks::approvals(s).await,
        Command::Approvals { history: true, limit, .. } => tasks::decisions(s, limit).await,
        Command::Answer { id, text, choice } => tasks::answer(s, &id, &text, choice).await,
        Command::Cancel { id, reason } => tasks::change(s, &id, "cancel", reason.as_deref()).await,
        Command::Retry { id } => tasks::change(s, &id, "retry", None).await,
        Command::Timeline { id } => tasks::timeline(s, &id).await,
        Command::Publish(args) => submit::publish(s, args).await,
        Command::Stats => admin::stats(s).await,
        Command::Agents { command } => governance::agents(s, command).await,
        Command::Budget { command } => governance::budget(s, command).await,
        Command::Override { id, freeze, reason } => {
            governance::override_freeze(s, &id, &freeze, &reason).await
        }
        Command::Health => admin::health(s).await,
        Command::Bridge(args) => bridge::check(s, &args).await,
        Command::Keys { command } => admin::keys(s, command).await,
        Command::Audit { command } => audit::audit(s, command).await,
        Command::Openapi => admin::openapi(s).await,
        Command::Completions { shell } => completions(shell, s.out),
        Command::Policy { command } => policy::policy(command, s.now(), s.out),
        Command::Serve(_) | Command::Backup(_) => {
            Err(Failure::Usage("this is not a client command".to_owned()))
        }
    }
}

fn completions(shell: clap_complete::Shell, out: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "watchbill", &mut script);
    Ok(out.document(&script)?)
}

/// Reports a failure, passes the server's document to `--json`, returns the exit code.
fn settle(outcome: Result<(), Failure>, out: &mut Output) -> Exit {
    let Err(failure) = outcome else { return Exit::Fine };
    let exit = failure.exit();
    if exit != Exit::Fine {
        out.error(&format!("{failure:#}"));
    }
    if let Failure::Answered(refusal) = &failure
        && out.json
        && refusal.json().is_some()
    {
        // The exit code is already set by the refusal, so a closed pipe changes nothing.
        let _ = out.document(&refusal.body);
    }
    exit
}

/// The server's URL and the key to use.
fn connect(
    global: &Global,
    data: &Path,
    out: &mut Output,
) -> Result<(reqwest::Url, Option<String>), Failure> {
    let url = parse_url(&global.url)?;
    let key = match global.key.as_deref().map(str::trim).filter(|key| !key.is_empty()) {
        Some(key) => Some(key.to_owned()),
        None if is_local(&url) => local_key(&data.join("admin.key"), out),
        None => None,
    };
    Ok((url, key))
}

/// The admin key that a server on this machine left in its data folder.
fn local_key(file: &Path, out: &mut Output) -> Option<String> {
    let key = match std::fs::read_to_string(file) {
        Ok(text) => Some(text.trim().to_owned()).filter(|key| !key.is_empty()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => {
            out.note(&format!("could not read the key in '{}': {e}", file.display()));
            None
        }
    };
    if key.is_some() && is_open_to_others(file) {
        let file = file.display();
        out.note(&format!(
            "'{file}' is readable by other users of this machine; run: chmod 600 '{file}'"
        ));
    }
    key
}

#[cfg(unix)]
fn is_open_to_others(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_file: &Path) -> bool {
    false
}
