use std::fmt::Write as _;
use std::io;

use bytes::Bytes;
use serde_json::Value;
use watchbill_wire::peer::PeerError;

use super::exit::Exit;
use super::text::line;

/// Why a command did not do what was asked, in words for a person and as an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("could not reach {url}: {cause}; {advice}")]
    Unreachable { url: String, cause: String, advice: String },
    #[error("{}", .0.text())]
    Answered(Box<Refusal>),
    /// The task ended badly; what it says was printed already.
    #[error("task {id} {status}")]
    TaskFailed { id: String, status: String },
    #[error("{0}")]
    StillWaiting(String),
    #[error("{0}")]
    Interrupted(String),
    #[error("{0} answered something that isn't Watchbill's: {1}; check --url")]
    Nonsense(String, String),
    #[error("{0}")]
    Local(String),
    /// A local file was read and is not as it should be.
    #[error("{0}")]
    Invalid(String),
    /// What was verified does not hold.
    #[error("{0}")]
    Broken(String),
    /// The Redis did not do what it was asked.
    #[error("{0}")]
    Peer(#[from] PeerError),
    #[error("could not write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            // `watchbill list | head` is no failure: the reader has what it wanted.
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
            Failure::Usage(_) => Exit::Usage,
            Failure::Unreachable { .. } => Exit::Unreachable,
            Failure::Answered(refusal) => Exit::of_status(refusal.status),
            Failure::TaskFailed { .. } => Exit::TaskFailed,
            Failure::StillWaiting(_) => Exit::StillWaiting,
            Failure::Interrupted(_) => Exit::Interrupted,
            Failure::Nonsense(..) => Exit::Server,
            Failure::Peer(PeerError::Away(_)) => Exit::Unreachable,
            Failure::Peer(PeerError::Refused(_)) => Exit::Refused,
            Failure::Peer(PeerError::Foreign(_)) => Exit::Conflict,
            Failure::Broken(_) => Exit::Broken,
            Failure::Invalid(_) => Exit::Invalid,
            Failure::Local(_) | Failure::Output(_) => Exit::Usage,
        }
    }

    /// Seconds after which the server wants to be asked again.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Answered(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the same call may well succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Unreachable { .. } | Failure::Peer(PeerError::Away(_)) => true,
            Failure::Answered(refusal) => refusal.status == 429 || refusal.status >= 500,
            _ => false,
        }
    }
}

/// An answer other than 2xx.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    /// The method and path that were asked.
    pub asked: String,
    pub body: Bytes,
    /// Seconds after which the server wants to be asked again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// The body if it is JSON, so that `--json` can hand it on.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// What was wrong, on one line.
    pub fn said(&self) -> String {
        let text = self.text();
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// What was wrong, each field, what to do.
    pub fn text(&self) -> String {
        let body = self.json();
        let mut text = match body.as_ref().and_then(detail) {
            Some(detail) => format!("{detail} ({})", self.status),
            None => format!("{} was answered with {}{}", self.asked, self.status, self.excerpt()),
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
            403 => "use a key with the right this needs; 'watchbill keys list' shows the roles, \
                    'watchbill keys create' makes one"
                .to_owned(),
            404 => "check the id; 'watchbill list' shows the tasks there are".to_owned(),
            409 => "look at how it stands now with 'watchbill get ID'".to_owned(),
            413 => "make the payload smaller: 200 KB is the most for a task, 100 KB for an event"
                .to_owned(),
            429 => match self.retry_after {
                Some(seconds) => format!("try again in {seconds} s"),
                None => "try again in a minute".to_owned(),
            },
            500..=599 => {
                "try again; if it stays so, look at 'watchbill health' and the server's log"
                    .to_owned()
            }
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

/// `priority: 'P9' is none of P0 … P3`, whatever the server calls the parts.
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
            asked: "POST /tasks".to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            retry_after: None,
        }
    }

    #[test]
    fn a_problem_is_told_with_its_fields_and_what_to_do() {
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
             plain\n  {\"code\":7}\n  make the payload smaller: 200 KB is the most for a task, \
             100 KB for an event"
        );
    }

    #[test]
    fn a_page_of_some_proxy_is_cut_short_and_can_not_steer_the_terminal() {
        let text = refusal(502, &format!("<h1>\u{1b}[31mBad</h1>{}", "x".repeat(900))).text();
        assert!(text.starts_with("POST /tasks was answered with 502: <h1>"), "{text}");
        assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
    }

    #[test]
    fn only_what_may_pass_is_passing() {
        for (status, passing) in [(400, false), (409, false), (429, true), (500, true), (503, true)]
        {
            let failure = Failure::Answered(Box::new(refusal(status, "")));
            assert_eq!(failure.is_passing(), passing, "{status}");
        }
    }
}
