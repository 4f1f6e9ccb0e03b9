//! The port for health checks of services.

use std::time::Duration;

use async_trait::async_trait;

/// Checks services over HTTP(S) and TCP, within the operator's limits on allowed targets.
#[async_trait]
pub trait Probes: Send + Sync {
    /// Never fails itself: every failure is in the outcome.
    async fn probe(&self, probe: &Probe) -> ProbeOutcome;
}

#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// `http://…`, `https://…` or `tcp://host:port`.
    pub url: String,
    pub timeout: Duration,
    /// A text that the body must contain (searched in its first 256 KiB). If set, the body is
    /// requested.
    pub body_contains: Option<String>,
    /// Whether to follow redirects; not if one is expected.
    pub follow_redirects: bool,
}

/// The result of a probe. Fields for stages that were not reached are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeOutcome {
    pub http_status: Option<u16>,
    /// Until the response head was received, or the connection was established.
    pub latency: Duration,
    /// For the presented certificate, trusted or not; negative if it has expired.
    pub tls_days_left: Option<i64>,
    pub body_matched: Option<bool>,
    /// How many redirects were followed.
    pub redirects: u32,
    pub failure: Option<ProbeFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    pub kind: ProbeFailureKind,
    /// Text for people.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFailureKind {
    /// The policy forbids this target; nothing was sent.
    Forbidden,
    BadUrl,
    Dns,
    Connect,
    Timeout,
    /// The certificate is not trusted, has expired, or is for another name.
    Tls,
    Redirect,
    /// The response broke off or was malformed.
    Protocol,
}
