//! What can be read of the estate, whoever knows it: the port that agents observe through, so
//! that no capability has to know another. `shared/ops/catalog` joins it from the capabilities.

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Status, TaskId, TaskType, TenantId, Timestamp};

use crate::port_error::PortError;

/// What may be asked for. An error says why something can't be seen; `NotHere` that this build
/// or this mode has nothing that could tell.
#[async_trait]
pub trait Evidence: Send + Sync {
    /// The machine's own figures, judged.
    async fn system(&self) -> Result<SystemReport, Unseen>;

    /// Active and acknowledged alerts, newest first, at most so many of them.
    async fn open_alerts(&self, tenant: &TenantId, limit: usize) -> Result<AlertsSeen, Unseen>;

    /// Tasks created or finished between the two, newest first.
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, Unseen>;

    /// How many tasks that were made since then have failed.
    async fn failed_since(&self, tenant: &TenantId, from: Timestamp) -> Result<Counted, Unseen>;
}

/// Why something was not seen.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unseen {
    #[error("not available here")]
    NotHere,
    #[error(transparent)]
    Port(#[from] PortError),
}

/// How something is. Worse is greater.
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

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub health: Health,
    pub text: String,
}

/// What a machine can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
    /// One-minute load average over the number of cores.
    Load,
}

/// One figure, judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub resource: Resource,
    /// Percent; of `Load` a ratio.
    pub value: f64,
    /// From this on it is degraded.
    pub limit: f64,
    pub health: Health,
}

/// A machine's figures at one moment and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemReport {
    pub at: Timestamp,
    /// One line, for the timeline.
    pub summary: String,
    /// All figures, as results show them.
    pub metrics: Value,
    /// Nothing if all is well.
    pub issues: Vec<Issue>,
    /// One of each resource.
    pub readings: Vec<Reading>,
}

impl SystemReport {
    pub fn reading(&self, of: Resource) -> Option<&Reading> {
        self.readings.iter().find(|reading| reading.resource == of)
    }
}

/// An open alert, as far as others than its own capability look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSeen {
    pub alert_id: String,
    pub alert_type: String,
    pub target: String,
    pub severity: &'static str,
    pub message: String,
    /// How often it was raised since it opened; 1 is new.
    pub count: u64,
    pub first_seen: Timestamp,
    /// Somebody has it.
    pub acknowledged: bool,
}

/// The newest open alerts, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertsSeen {
    pub newest: Vec<AlertSeen>,
    pub open: Counted,
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

/// How many there are, as far as was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub count: usize,
    pub more: bool,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.more { write!(f, "more than {}", self.count) } else { write!(f, "{}", self.count) }
    }
}
