//! The port that agents observe through, so that no capability depends on another.
//! `shared/ops/catalog` implements it by joining the capabilities.

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Status, TaskId, TaskType, TenantId, Timestamp};

use crate::port_error::PortError;

/// The observations. An error says why one can't be made; `NotHere`: this build or this mode
/// has no source for it.
#[async_trait]
pub trait Evidence: Send + Sync {
    /// The machine's own metrics, assessed.
    async fn system(&self) -> Result<SystemReport, ObservationError>;

    /// Active and acknowledged alerts, newest first, at most `limit`.
    async fn open_alerts(
        &self,
        tenant: &TenantId,
        limit: usize,
    ) -> Result<AlertSummaries, ObservationError>;

    /// Tasks created or finished between the two times, newest first.
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, ObservationError>;

    /// How many tasks created since then have failed.
    async fn failed_since(
        &self,
        tenant: &TenantId,
        from: Timestamp,
    ) -> Result<CappedCount, ObservationError>;
}

/// Why an observation could not be made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObservationError {
    #[error("not available here")]
    NotHere,
    #[error(transparent)]
    Port(#[from] PortError),
}

/// State of health. Worse is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    Healthy,
    Degraded,
    Unhealthy,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unhealthy => "unhealthy",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub health: Health,
    pub text: String,
}

/// A resource that a machine can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
    /// One-minute load average divided by the number of cores.
    Load,
}

/// One assessed metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricAssessment {
    pub resource: Resource,
    /// Percent; a ratio for `Load`.
    pub value: f64,
    /// From this value on it is degraded.
    pub limit: f64,
    pub health: Health,
}

/// A machine's metrics at one time, and their assessment.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemReport {
    pub at: Timestamp,
    /// One line for the timeline.
    pub summary: String,
    /// All metrics, as results show them.
    pub metrics: Value,
    /// Empty if there is no problem.
    pub issues: Vec<Issue>,
    /// One per resource.
    pub readings: Vec<MetricAssessment>,
}

impl SystemReport {
    pub fn reading(&self, of: Resource) -> Option<&MetricAssessment> {
        self.readings.iter().find(|reading| reading.resource == of)
    }
}

/// The part of an open alert that other capabilities read.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSummary {
    pub alert_id: String,
    pub alert_type: String,
    pub target: String,
    pub severity: &'static str,
    pub message: String,
    /// How often it was raised since it opened; 1 is new.
    pub count: u64,
    pub first_seen: Timestamp,
    /// Someone has acknowledged it.
    pub acknowledged: bool,
}

/// The newest open alerts, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSummaries {
    pub newest: Vec<AlertSummary>,
    pub open: CappedCount,
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

/// A count, which stops at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CappedCount {
    pub count: usize,
    pub more: bool,
}

impl std::fmt::Display for CappedCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.more { write!(f, "more than {}", self.count) } else { write!(f, "{}", self.count) }
    }
}
