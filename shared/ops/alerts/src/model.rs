//! The alert model, and the port that stores alerts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use watchbill_domain::{TaskId, TenantId, Timestamp, UnknownName};
use watchbill_runtime::evidence::CappedCount;
use watchbill_runtime::port_error::PortError;

/// The severity of an alert. Worse is greater.
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

    /// Accepts the names that other monitors use, in any case.
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        match text.trim().to_ascii_lowercase().as_str() {
            "critical" | "fatal" | "emergency" | "page" | "p0" => Ok(Severity::Critical),
            "high" | "warning" | "warn" | "error" | "p1" => Ok(Severity::High),
            "medium" | "moderate" | "p2" => Ok(Severity::Medium),
            "low" | "info" | "informational" | "notice" | "p3" => Ok(Severity::Low),
            _ => Err(UnknownName {
                what: "severity",
                value: watchbill_redact::text(text).chars().take(64).collect(),
                known: "critical, high, medium, low (warning means high, info means low)"
                    .to_owned(),
            }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertStatus {
    Active,
    /// Someone is working on it: quiet until resolved.
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

/// A request to raise an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct RaiseAlert {
    /// The rule that fired, or the kind of alert.
    pub alert_type: String,
    /// What it is about: a service, host or project.
    pub target: String,
    pub severity: Severity,
    pub message: String,
    pub labels: BTreeMap<String, String>,
    /// Raising twice in the same task counts once.
    pub task_id: TaskId,
    pub at: Timestamp,
}

/// Who changed an alert, when, and in which task.
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
    /// How often it was raised since it opened; 1 means new.
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
    /// The number counted.
    pub count: usize,
    /// Whether there are more than were counted.
    pub more: bool,
}

impl OpenAlerts {
    /// `7`, or `more than 100`.
    pub fn counted(&self) -> String {
        CappedCount { count: self.count, more: self.more }.to_string()
    }
}

/// Stores alerts: one open alert for each type and target.
#[async_trait]
pub trait AlertStore: Send + Sync {
    /// Opens an alert, or increments the count of the open one of the same type and target.
    async fn raise(&self, tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError>;

    async fn find(&self, tenant: &TenantId, alert_id: &str) -> Result<Option<Alert>, PortError>;

    /// The open alert of a type and target. Without a target, the newest open one of the type.
    async fn find_open(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, PortError>;

    /// Active and acknowledged alerts, newest first, at most `limit` of them.
    async fn list_open(&self, tenant: &TenantId, limit: usize) -> Result<OpenAlerts, PortError>;

    /// Returns the resulting alert, or `None` if the id is unknown. An acknowledged or resolved
    /// alert stays unchanged.
    async fn acknowledge(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError>;

    /// Returns the resulting alert, or `None` if the id is unknown. A resolved alert stays
    /// unchanged.
    async fn resolve(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError>;
}
