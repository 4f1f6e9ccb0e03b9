//! What the ops agent's tools need from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{Status, TaskId, TaskType, TenantId, Timestamp, UnknownName};

/// Something outside did not answer as it should.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortError {
    /// The same again may work.
    #[error("{what} can't be reached: {reason}")]
    Unavailable { what: &'static str, reason: String },
    /// The same again would not.
    #[error("{what} refused: {reason}")]
    Refused { what: &'static str, reason: String },
}

impl PortError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, PortError::Unavailable { .. })
    }
}

/// The machine's own figures.
#[async_trait]
pub trait SystemMetrics: Send + Sync {
    async fn sample(&self) -> Result<SystemSample, PortError>;
}

/// One measurement. Percentages are 0–100, sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemSample {
    pub at: Timestamp,
    /// Over all cores, so at most 100.
    pub cpu_percent: f64,
    pub cores: u32,
    /// What programs may have: the machine's, or the container's limit if that is less.
    pub memory_total: u64,
    pub memory_used: u64,
    pub swap_total: u64,
    pub swap_used: u64,
    pub disks: Vec<DiskSample>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub uptime: Duration,
    pub processes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DiskSample {
    pub mount: String,
    pub total: u64,
    pub used: u64,
}

impl DiskSample {
    pub fn percent(&self) -> f64 {
        percent(self.used, self.total)
    }
}

impl SystemSample {
    pub fn memory_percent(&self) -> f64 {
        percent(self.memory_used, self.memory_total)
    }

    pub fn fullest_disk(&self) -> Option<&DiskSample> {
        self.disks.iter().max_by(|a, b| a.percent().total_cmp(&b.percent()))
    }

    /// One-minute load over the number of cores.
    pub fn load_per_core(&self) -> f64 {
        self.load[0] / f64::from(self.cores.max(1))
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

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

/// Log files of the folders that the operator opened for reading.
#[async_trait]
pub trait LogFiles: Send + Sync {
    async fn read(&self, request: LogRequest) -> Result<LogScan, PortError>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogRequest {
    /// Files or folders, absolute or below an allowed folder; empty: all logs there.
    pub paths: Vec<String>,
    /// Files last written before this are left out.
    pub since: Timestamp,
    /// At most so many bytes of one file (its end), and of all.
    pub bytes_per_file: u64,
    pub bytes_in_all: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogScan {
    pub files: Vec<LogFile>,
    /// What was not read, and why.
    pub skipped: Vec<SkippedLog>,
    /// Files left out because they were last written before `since`.
    pub older: usize,
    /// Of times written without a zone: seconds east of UTC.
    pub utc_offset: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogFile {
    pub path: String,
    /// What was read of it, with invalid UTF-8 replaced; whole lines, but for the last.
    pub text: String,
    /// Its beginning was left out because it is too big.
    pub only_end: bool,
    pub modified: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SkippedLog {
    pub path: String,
    pub reason: String,
}

/// What this bundle did lately.
#[async_trait]
pub trait History: Send + Sync {
    /// Tasks created or finished between the two, newest first; those with a status only, if
    /// one is asked for.
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        status: Option<Status>,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, PortError>;

    /// How many tasks that were made since then have failed; read from an index alone.
    async fn failed_since(&self, tenant: &TenantId, from: Timestamp) -> Result<Counted, PortError>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct TaskSummary {
    pub task_id: TaskId,
    pub task_type: TaskType,
    pub status: Status,
    pub title: String,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub error: Option<String>,
    pub result: Option<Map<String, Value>>,
}

/// How bad an alert is. Worse is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// Accepts what other monitors call them, in any case.
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        match text.trim().to_ascii_lowercase().as_str() {
            "critical" | "fatal" | "emergency" | "page" | "p0" => Ok(Severity::Critical),
            "high" | "warning" | "warn" | "error" | "p1" => Ok(Severity::High),
            "medium" | "moderate" | "p2" => Ok(Severity::Medium),
            "low" | "info" | "informational" | "notice" | "p3" => Ok(Severity::Low),
            _ => Err(UnknownName {
                what: "severity",
                value: watchbill_redact::text(text).chars().take(64).collect(),
                known: "critical, high, medium, low (warning stands for high, info for low)"
                    .to_owned(),
            }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertStatus {
    Active,
    /// Somebody has it: quiet until resolved.
    Acknowledged,
    Resolved,
}

impl AlertStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            AlertStatus::Active => "active",
            AlertStatus::Acknowledged => "acknowledged",
            AlertStatus::Resolved => "resolved",
        }
    }
}

/// What somebody noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct RaiseAlert {
    /// The rule that fired, or the kind of alert.
    pub alert_type: String,
    /// What it is about: a service, host or project.
    pub target: String,
    pub severity: Severity,
    pub message: String,
    pub labels: BTreeMap<String, String>,
    /// The same task raising twice counts once.
    pub task_id: TaskId,
    pub at: Timestamp,
}

/// Who changed an alert, when, and by which task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertMark {
    pub by: String,
    pub task_id: TaskId,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub alert_id: String,
    pub alert_type: String,
    pub target: String,
    /// The worst so far.
    pub severity: Severity,
    pub status: AlertStatus,
    /// The latest.
    pub message: String,
    pub labels: BTreeMap<String, String>,
    /// How often it was raised since it opened; 1 is new.
    pub count: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub acknowledged: Option<AlertMark>,
    pub resolved: Option<AlertMark>,
}

/// The newest open alerts, and how many there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenAlerts {
    pub newest: Vec<Alert>,
    /// As far as was counted.
    pub count: usize,
    /// There are more than were counted.
    pub more: bool,
}

impl OpenAlerts {
    /// `7`, or `more than 100`.
    pub fn counted(&self) -> String {
        counted(self.count, self.more)
    }
}

/// How many there are, as far as was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub count: usize,
    pub more: bool,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&counted(self.count, self.more))
    }
}

fn counted(count: usize, more: bool) -> String {
    if more { format!("more than {count}") } else { count.to_string() }
}

/// Alerts that last: one open alert for each type and target.
#[async_trait]
pub trait AlertBook: Send + Sync {
    /// Opens an alert, or counts up the open one of the same type and target.
    async fn raise(&self, tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError>;

    async fn find(&self, tenant: &TenantId, alert_id: &str) -> Result<Option<Alert>, PortError>;

    /// The open one of a type, and of a target if one is named; else the newest of the type.
    async fn find_open(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, PortError>;

    /// Active and acknowledged ones, newest first, at most so many of them.
    async fn list_open(&self, tenant: &TenantId, limit: usize) -> Result<OpenAlerts, PortError>;

    /// Answers the alert as it then is, or `None` if there is none of that id. Leaves one
    /// that is acknowledged or resolved as it is.
    async fn acknowledge(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError>;

    /// Answers the alert as it then is, or `None` if there is none of that id. Leaves one
    /// that is resolved as it is.
    async fn resolve(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError>;
}
