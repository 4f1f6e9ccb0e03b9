//! Why a command failed: the error text and the exit code.

use std::fmt::Write as _;
use std::io;

use bytes::Bytes;
use serde_json::Value;
use watchbill_wire::legacy::LegacyError;

use super::exit::Exit;
use super::text::line;

/// Why a command failed, as a text and as an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("could not reach {url}: {cause}; {advice}")]
    Unreachable { url: String, cause: String, advice: String },
    #[error("{}", .0.text())]
    Answered(Box<Refusal>),
    /// The task failed or was cancelled. Its details were printed already.
    #[error("task {id} {status}")]
    TaskFailed { id: String, status: String },
    #[error("{0}")]
    StillWaiting(String),
    #[error("{0}")]
    Interrupted(String),
    #[error("{0} returned an unexpected response: {1}; check --url")]
    Nonsense(String, String),
    /// Something on this machine failed. `{:#}` shows its causes.
    #[error(transparent)]
    Local(anyhow::Error),
    /// A setting of the bridge or of the log is invalid. `{:#}` shows its causes.
    #[error(transparent)]
    Setting(anyhow::Error),
    /// A local file was read and is invalid.
    #[error("{0}")]
    Invalid(String),
    /// A verification failed.
    #[error("{0}")]
    Broken(String),
    /// The Redis did not do what was requested.
    #[error(transparent)]
    Peer(#[from] LegacyError),
    #[error("could not write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            // `watchbill list | head` is no failure: the reader closed the pipe when it had
            // enough.
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
            Failure::Usage(_) | Failure::Setting(_) => Exit::Usage,
            Failure::Unreachable { .. } => Exit::Unreachable,
            Failure::Answered(refusal) => Exit::of_status(refusal.status),
            Failure::TaskFailed { .. } => Exit::TaskFailed,
            Failure::StillWaiting(_) => Exit::StillWaiting,
            Failure::Interrupted(_) => Exit::Interrupted,
            Failure::Nonsense(..) => Exit::Server,
            Failure::Peer(LegacyError::Away(_)) => Exit::Unreachable,
            Failure::Peer(LegacyError::Refused(_)) => Exit::Refused,
            Failure::Peer(LegacyError::Foreign(_)) => Exit::Conflict,
            Failure::Broken(_) => Exit::Broken,
            Failure::Invalid(_) => Exit::Invalid,
            Failure::Local(_) | Failure::Output(_) => Exit::Usage,
        }
    }

    /// Seconds after which the server accepts a retry (`Retry-After`).
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Answered(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Unreachable { .. } | Failure::Peer(LegacyError::Away(_)) => true,
            Failure::Answered(refusal) => refusal.status == 429 || refusal.status >= 500,
            _ => false,
        }
    }
}

/// A response other than 2xx.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    /// The method and path of the request.
    pub request: String,
    pub body: Bytes,
    /// Seconds after which the server accepts a retry (`Retry-After`).
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// The body if it is JSON, so that `--json` can print it.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The problem in one line.
    pub fn first_line(&self) -> String {
        let text = self.text();
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The problem, the error of each field, and what to do.
    pub fn text(&self) -> String {
        let body = self.json();
        let mut text = match body.as_ref().and_then(detail) {
            Some(detail) => format!("{detail} ({})", self.status),
            None => format!("{} returned {}{}", self.request, self.status, self.excerpt()),
        };
        let fields = body.as_ref().and_then(|b| b.get("errors")).and_then(Value::as_array);
        for field in fields.into_iter().flatten() {
            let _ = write!(text, "\n  {}", field_error(field));
        }
        if let Some(advice) = self.advice() {
            let _ = write!(text, "\n  {advice}");
        }
        text
    }

    fn excerpt(&self) -> String {
        let body = line(&String::from_utf8_lossy(&self.body));
        let short: String = body.trim().chars().take(200).collect();
        if short.is_empty() { short } else { format!(": {short}") }
    }

    fn advice(&self) -> Option<String> {
        Some(match self.status {
            401 => "give a valid key with --key or WATCHBILL_KEY".to_owned(),
            403 => "use a key with the required role; 'watchbill keys list' shows the roles, \
                    'watchbill keys create' creates a key"
                .to_owned(),
            404 => "check the id; 'watchbill list' shows the tasks".to_owned(),
            409 => "check its current status with 'watchbill get ID'".to_owned(),
            413 => "make the payload smaller: the limit is 200 KB for a task, 100 KB for an event"
                .to_owned(),
            429 => match self.retry_after {
                Some(seconds) => format!("try again in {seconds} s"),
                None => "try again in a minute".to_owned(),
            },
            500..=599 => "try again; if it persists, check 'watchbill health' and the server's log"
                .to_owned(),
            _ => return None,
        })
    }
}

fn detail(body: &Value) -> Option<String> {
    ["detail", "title", "message", "error"]
        .iter()
        .find_map(|name| body.get(name)?.as_str())
        .map(line)
        .filter(|text| !text.is_empty())
}

/// Formats `priority: 'P9' is none of P0 … P3`, whatever names the server uses for the parts.
fn field_error(error: &Value) -> String {
    if let Some(text) = error.as_str() {
        return line(text);
    }
    let first = |names: &[&str]| {
        names.iter().find_map(|name| error.get(name)?.as_str()).map(line).filter(|t| !t.is_empty())
    };
    let field = first(&["field", "pointer", "name", "path", "parameter"]);
    let what = first(&["detail", "message", "reason", "error"]);
    match (field, what) {
        (Some(field), Some(what)) => format!("{field}: {what}"),
        (None, Some(one)) | (Some(one), None) => one,
        (None, None) => line(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        Refusal {
            status,
            request: "POST /tasks".to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            retry_after: None,
        }
    }

    #[test]
    fn a_problem_is_shown_with_its_fields_and_advice() {
        let text = refusal(
            413,
            r#"{"title":"Too large","detail":"payload has 300000 bytes","errors":[
                {"field":"payload","message":"204800 bytes are the most"},
                {"pointer":"/x","detail":"odd"}, "plain", {"code":7}]}"#,
        )
        .text();
        assert_eq!(
            text,
            "payload has 300000 bytes (413)\n  payload: 204800 bytes are the most\n  /x: odd\n  \
             plain\n  {\"code\":7}\n  make the payload smaller: the limit is 200 KB for a task, \
             100 KB for an event"
        );
    }

    #[test]
    fn a_proxys_error_page_is_cut_and_can_not_control_the_terminal() {
        let text = refusal(502, &format!("<h1>\u{1b}[31mBad</h1>{}", "x".repeat(900))).text();
        assert!(text.starts_with("POST /tasks returned 502: <h1>"), "{text}");
        assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
    }

    #[test]
    fn only_temporary_failures_are_passing() {
        for (status, passing) in [(400, false), (409, false), (429, true), (500, true), (503, true)]
        {
            let failure = Failure::Answered(Box::new(refusal(status, "")));
            assert_eq!(failure.is_passing(), passing, "{status}");
        }
    }
}
