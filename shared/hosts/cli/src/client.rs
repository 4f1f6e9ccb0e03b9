//! The HTTP client: sends one call and retries it where that is safe.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Url, redirect};
use serde_json::Value;
use watchbill_core::ports::{Clock, Entropy};

use super::failure::{Failure, Refusal};
use super::out::{Output, Response};

/// Pauses before the second, third … attempt, in milliseconds. Jitter shortens each by up to
/// half.
const BACKOFF_MS: [u64; 4] = [250, 500, 1_000, 2_000];
/// Seconds. A longer `Retry-After` is reported to the user instead of waited for.
const MAX_RETRY_AFTER: u64 = 60;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses from this length on are announced to the user.
const MIN_ANNOUNCED_PAUSE: Duration = Duration::from_secs(2);

/// Whether a call may be repeated if its outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RepeatPolicy {
    /// It changes nothing, or carries an Idempotency-Key.
    Safe,
    /// It might take effect twice: repeated only if the server did nothing (429).
    Unsafe,
    /// The first response counts.
    Never,
}

pub struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    headers: Vec<(&'static str, String)>,
    repeat: RepeatPolicy,
    /// How long the server was asked to hold the call open.
    held: Duration,
}

impl Call {
    /// `path` is a list of segments: `tasks/{id}` is `["tasks", id]`.
    pub fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path, RepeatPolicy::Safe)
    }

    pub fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path, RepeatPolicy::Unsafe)
    }

    pub fn patch(path: &[&str]) -> Self {
        Self::new(Method::PATCH, path, RepeatPolicy::Unsafe)
    }

    /// PUT is idempotent.
    pub fn put(path: &[&str]) -> Self {
        Self::new(Method::PUT, path, RepeatPolicy::Safe)
    }

    /// A repeated DELETE deletes once, but its second response would differ.
    pub fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path, RepeatPolicy::Unsafe)
    }

    fn new(method: Method, path: &[&str], repeat: RepeatPolicy) -> Self {
        Self {
            method,
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: Vec::new(),
            body: None,
            headers: Vec::new(),
            repeat,
            held: Duration::ZERO,
        }
    }

    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Omitted if `None`.
    pub fn filter(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub fn idempotent(mut self, key: &str) -> Self {
        self.repeat = RepeatPolicy::Safe;
        self.header("Idempotency-Key", Some(key.to_owned()))
    }

    /// Omitted if `None`.
    pub fn header(mut self, name: &'static str, value: Option<String>) -> Self {
        self.headers.extend(value.map(|value| (name, value)));
        self
    }

    pub fn once(mut self) -> Self {
        self.repeat = RepeatPolicy::Never;
        self
    }

    /// Asks the server to hold the call this long while nothing is new.
    pub fn held(mut self, seconds: u64) -> Self {
        self.held = Duration::from_secs(seconds);
        self.query("wait", seconds)
    }

    fn name(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Client {
    pub fn new(
        base: Url,
        key: Option<String>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Failure> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("watchbill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would send the key to another address.
            .redirect(redirect::Policy::none())
            // Only this client knows which calls are safe to repeat.
            .retry(reqwest::retry::never());
        if is_local(&base) {
            http = http.no_proxy();
        }
        if base.scheme() == "http" {
            // HTTP checks no certificate, so a machine without root certificates works too.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|e| {
            Failure::Local(anyhow::Error::new(e).context("could not set up the HTTP client"))
        })?;
        Ok(Self { http, base, key, clock, entropy })
    }

    /// Repeats the call until it succeeds (2xx is `Ok`) or a retry makes no sense.
    pub async fn ask(&self, call: Call, out: &mut Output) -> Result<Response, Failure> {
        let mut attempt = 0;
        loop {
            let failure = match self.ask_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match self.pause(&call, &failure, attempt) {
                Some(pause) => {
                    if pause >= MIN_ANNOUNCED_PAUSE {
                        let seconds = pause.as_secs_f64().ceil();
                        out.note(&format!("{}; trying again in {seconds} s", reason(&failure)));
                    }
                    self.clock.sleep(pause).await;
                }
                None => return Err(failure),
            }
            attempt += 1;
        }
    }

    /// One attempt, for callers that handle failures themselves.
    pub async fn ask_once(&self, call: &Call) -> Result<Response, Failure> {
        let body = self.attempt(call).await?;
        self.read(call, body)
    }

    fn read(&self, call: &Call, body: Bytes) -> Result<Response, Failure> {
        if body.is_empty() {
            return Ok(Response { body, value: Value::Null });
        }
        match serde_json::from_slice(&body) {
            Ok(value) => Ok(Response { body, value }),
            Err(e) => Err(Failure::Nonsense(
                format!("{} at {}", call.name(), self.shown()),
                e.to_string(),
            )),
        }
    }

    /// How long to wait before the next attempt. Returns `None` if there is none.
    fn pause(&self, call: &Call, failure: &Failure, attempt: usize) -> Option<Duration> {
        let backoff = Duration::from_millis(*BACKOFF_MS.get(attempt)?);
        let jitter = backoff.mul_f64(0.5 * (self.entropy.next_u64() as f64 / u64::MAX as f64));
        let backoff = backoff - jitter;
        match failure {
            _ if call.repeat == RepeatPolicy::Never => None,
            Failure::Answered(refusal) => {
                let again = match call.repeat {
                    RepeatPolicy::Safe => refusal.status == 429 || refusal.status >= 500,
                    _ => refusal.status == 429,
                };
                match refusal.retry_after {
                    Some(seconds) if seconds > MAX_RETRY_AFTER => None,
                    Some(seconds) => again.then(|| backoff.max(Duration::from_secs(seconds))),
                    None => again.then_some(backoff),
                }
            }
            // Nothing listens on this machine: the server was never started.
            Failure::Unreachable { cause, .. } if cause == REFUSED && is_local(&self.base) => None,
            Failure::Unreachable { cause, .. } if cause.starts_with(BAD_CERTIFICATE) => None,
            Failure::Unreachable { .. } => (call.repeat == RepeatPolicy::Safe).then_some(backoff),
            _ => None,
        }
    }

    async fn attempt(&self, call: &Call) -> Result<Bytes, Failure> {
        let mut request = self
            .http
            .request(call.method.clone(), self.url(call))
            .timeout(RESPONSE_TIMEOUT + call.held);
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let retry_after = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        if status.is_success() {
            return Ok(body);
        }
        let (status, request) = (status.as_u16(), call.name());
        Err(Failure::Answered(Box::new(Refusal { status, request, body, retry_after })))
    }

    fn url(&self, call: &Call) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https URLs have a path")
            .pop_if_empty()
            .extend(&call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let builder = error.is_builder();
        let cause = innermost(error);
        if builder {
            return Failure::Usage(format!("could not build the request: {cause}"));
        }
        let advice = if cause == REFUSED && is_local(&self.base) {
            "start it with 'watchbill serve' or set --url"
        } else if cause.starts_with(BAD_CERTIFICATE) {
            "check --url; set SSL_CERT_FILE to the CA certificates to trust"
        } else {
            "check --url, and that the server is running"
        };
        Failure::Unreachable { url: self.shown(), cause, advice: advice.to_owned() }
    }

    /// The base URL for display, without a user name and password.
    pub fn shown(&self) -> String {
        shown(&self.base)
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that can't have credentials; then there is nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// Parses `--url` as the user typed it.
pub fn parse_url(text: &str) -> Result<Url, Failure> {
    let wrong = |why: String| {
        Failure::Usage(format!("--url '{text}' {why}; write it like http://127.0.0.1:8000"))
    };
    let url = Url::parse(text).map_err(|e| wrong(format!("is not a URL ({e})")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(wrong(format!("has the scheme '{other}', not http or https"))),
    }
}

/// Whether the server can only be on this machine.
pub fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

const REFUSED: &str = "connection refused";
/// How rustls begins its error about a certificate that it does not trust.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// The innermost cause of an error of the HTTP client, as text.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            "the connection timed out".to_owned()
        } else {
            "no response in time".to_owned()
        };
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return REFUSED.to_owned();
        }
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn reason(failure: &Failure) -> String {
    match failure {
        Failure::Answered(refusal) if refusal.status == 429 => "rate limited".to_owned(),
        Failure::Answered(refusal) => format!("the server returned {}", refusal.status),
        Failure::Unreachable { url, cause, .. } => format!("could not reach {url}: {cause}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for (url, local) in [
            ("http://127.0.0.1:8000", true),
            ("http://[::1]:8000/", true),
            ("http://localhost", true),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
            ("https://example.com", false),
            ("http://0.0.0.0:8000", false),
        ] {
            assert_eq!(is_local(&parse_url(url).unwrap()), local, "{url}");
        }
    }

    #[test]
    fn an_invalid_url_is_rejected_with_an_example() {
        for text in ["127.0.0.1:8000", "localhost:8000", "ftp://x", "", "example.com"] {
            let failure = parse_url(text).unwrap_err();
            assert!(failure.to_string().contains("http://127.0.0.1:8000"), "{failure}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_shown() {
        let url = parse_url("https://me:secret@example.com/prod/").unwrap();
        assert_eq!(shown(&url), "https://example.com/prod");
    }
}
