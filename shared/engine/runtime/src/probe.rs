//! The port by which services are asked how they are.

use std::time::Duration;

use async_trait::async_trait;

/// Asks services how they are, over HTTP(S) and TCP, within the operator's limits on where
/// a probe may go.
#[async_trait]
pub trait Probes: Send + Sync {
    /// Never fails as such: whatever happened is the outcome.
    async fn probe(&self, probe: &Probe) -> ProbeOutcome;
}

#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// `http://…`, `https://…` or `tcp://host:port`.
    pub url: String,
    pub timeout: Duration,
    /// A text that the body must hold (searched in its first 256 KiB); asks for the body.
    pub body_contains: Option<String>,
    /// Whether redirects are followed: not if one is expected.
    pub follow_redirects: bool,
}

/// What a probe saw; what was not reached is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeOutcome {
    pub http_status: Option<u16>,
    /// Until the answer's head was there, or the connection stood.
    pub latency: Duration,
    /// Of the certificate shown, trusted or not; negative if it has run out.
    pub tls_days_left: Option<i64>,
    pub body_matched: Option<bool>,
    /// How many redirects were followed.
    pub redirects: u32,
    pub failure: Option<ProbeFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    pub kind: ProbeFailureKind,
    /// For people.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFailureKind {
    /// The policy forbids going there; nothing was sent.
    Forbidden,
    BadUrl,
    Dns,
    Connect,
    Timeout,
    /// The certificate is not trusted, has run out, or is for another name.
    Tls,
    Redirect,
    /// The answer broke off or made no sense.
    Protocol,
}
