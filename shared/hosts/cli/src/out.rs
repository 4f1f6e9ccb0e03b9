//! Writes to standard output and standard error.

use std::io::{self, Write};

use bytes::Bytes;
use serde_json::Value;

use super::text::{fit, lines};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Style {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
    Busy,
}

impl Style {
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            _ if !color => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Busy => "36",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    pub fn of_status(status: &str) -> Self {
        match status {
            "completed" | "approved" | "healthy" | "connected" | "running" | "ok" => Style::Good,
            "failed" | "rejected" | "unhealthy" | "unreachable" | "critical" => Style::Bad,
            "pending" | "blocked" | "expired" | "degraded" | "warning" => Style::Warn,
            "in_progress" => Style::Busy,
            "cancelled" | "disabled" => Style::Dim,
            _ => Style::Plain,
        }
    }

    pub fn of_priority(priority: &str) -> Self {
        match priority {
            "P0" | "critical" => Style::Bad,
            "P1" | "high" => Style::Warn,
            _ => Style::Plain,
        }
    }
}

/// The properties of the two output streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal {
    /// Columns of standard output, if it is a terminal.
    pub columns: Option<usize>,
    /// Columns of standard error, if it is a terminal. Only then is a live line drawn.
    pub error_columns: Option<usize>,
    pub no_color: bool,
}

/// Writes requested data to standard output, everything else to standard error.
pub struct Output {
    pub json: bool,
    terminal: Terminal,
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    drawn: bool,
}

impl Output {
    pub fn new(
        json: bool,
        terminal: Terminal,
        stdout: Box<dyn Write>,
        stderr: Box<dyn Write>,
    ) -> Self {
        Self { json, terminal, stdout, stderr, drawn: false }
    }

    pub fn columns(&self) -> Option<usize> {
        self.terminal.columns
    }

    pub fn color(&self) -> bool {
        self.terminal.columns.is_some() && !self.terminal.no_color
    }

    pub fn error_color(&self) -> bool {
        self.terminal.error_columns.is_some() && !self.terminal.no_color
    }

    /// Whether a live line can be redrawn on standard error.
    pub fn is_live(&self) -> bool {
        self.terminal.error_columns.is_some()
    }

    pub fn paint(&self, style: Style, text: &str) -> String {
        style.paint(text, self.color())
    }

    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.undraw();
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.write_all(b"\n")
    }

    /// Prints the server's document unchanged, with a line break at the end.
    pub fn document(&mut self, body: &[u8]) -> io::Result<()> {
        self.undraw();
        self.stdout.write_all(body)?;
        if !body.is_empty() && !body.ends_with(b"\n") {
            self.stdout.write_all(b"\n")?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// A remark on standard error. Write errors are ignored.
    pub fn note(&mut self, text: &str) {
        self.undraw();
        let _ = writeln!(self.stderr, "{text}");
    }

    pub fn error(&mut self, text: &str) {
        let label = Style::Bad.paint("error:", self.error_color());
        self.note(&format!("{label} {}", lines(text)));
    }

    /// Redraws the live line, cut to the terminal's width: a wrapped line can't be erased.
    pub fn draw(&mut self, text: &str) {
        let Some(columns) = self.terminal.error_columns else { return };
        let shown = fit(text, columns.saturating_sub(1));
        let _ = write!(self.stderr, "\r\u{1b}[2K{shown}");
        let _ = self.stderr.flush();
        self.drawn = true;
    }

    pub fn undraw(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(self.stderr, "\r\u{1b}[2K");
            let _ = self.stderr.flush();
        }
    }
}

/// A successful response: its bytes and the parsed JSON.
pub struct Response {
    pub body: Bytes,
    pub value: Value,
}
