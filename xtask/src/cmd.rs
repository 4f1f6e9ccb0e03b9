//! Runs programs: prints the command before, and checks the exit status after.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stopwatch::Stopwatch;

/// Runs it with this process's output.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| cannot_start(command))?;
    check(command, status)
}

/// Runs it with this process's output, and kills it if it takes longer than `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let mut child = command.spawn().with_context(|| cannot_start(command))?;
    let watch = Stopwatch::start();
    loop {
        if let Some(status) = child.try_wait()? {
            return check(command, status);
        }
        if watch.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("`{}` was killed: it took longer than {limit:?}", shown(command));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs it and returns its standard output. Its errors are shown only when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    check(command, output.status)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of `{}` is not UTF-8", shown(command)))
}

/// Runs it with this process's output, and also passes each line, without colours, to `line`.
pub fn watch(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let (reader, writer) = io::pipe().context("can't create a pipe")?;
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command.stdout(writer.try_clone().context("can't copy a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| cannot_start(command))?;
    // The command holds the pipe's writing ends; until they are closed the reader does not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut out = io::stdout();
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        out.write_all(&bytes)?;
        line(&plain(&String::from_utf8_lossy(&bytes)));
        bytes.clear();
    }
    out.flush()?;
    check(command, child.wait()?)
}

/// The command as typed in a shell, for messages.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("can't start {}", command.get_program().to_string_lossy())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Removes the escape sequences for colours (ECMA-48: ESC [ … letter).
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(c);
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(plain("\u{1b}[32;1m  Summary\u{1b}[0m ok\r\n"), "  Summary ok");
    }

    #[test]
    fn watch_sees_both_streams_and_the_failure() {
        let mut lines = Vec::new();
        let error =
            watch(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), |line| {
                lines.push(line.to_owned())
            })
            .unwrap_err();
        assert_eq!(lines, ["one", "two"]);
        assert!(error.to_string().ends_with("ended with exit status: 3"), "{error}");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let limit = Duration::from_millis(30);
        let error = run_within(Command::new("sleep").arg("600"), limit).unwrap_err();
        assert_eq!(error.to_string(), "`sleep 600` was killed: it took longer than 30ms");
        run_within(&mut Command::new("true"), Duration::from_secs(60)).unwrap();
        assert!(run_within(&mut Command::new("false"), Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "can't start no-such-program");
    }
}
