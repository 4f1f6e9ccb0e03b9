//! Response bodies of the routes, built around the views.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use watchbill_core::ledger::{QueueStats, Stats};
use watchbill_core::service::{Created, QueueCounts, TimelineEntry};
use watchbill_domain::{ApiKey, ApprovalId, EventType, Role, Status, TaskId, TenantId, Timestamp};

use crate::{ApprovalView, EventView, TaskView, rfc3339, schemas};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceInfo {
    pub service: String,
    pub version: String,
    pub status: String,
}

/// Counts of open work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "QueueStats")]
pub struct QueueView {
    /// Pending and assigned.
    pub pending_tasks: u64,
    /// In progress.
    pub processing_tasks: u64,
    pub total_tasks: u64,
}

impl From<QueueStats> for QueueView {
    fn from(stats: QueueStats) -> Self {
        Self {
            pending_tasks: stats.pending,
            processing_tasks: stats.processing,
            total_tasks: stats.pending + stats.processing,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    pub status: String,
    /// `connected`, `disabled` or `unreachable`.
    pub redis: String,
    pub queue_stats: QueueView,
    /// When the counts were read, at most a second ago.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub counted_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governance: Option<GovernanceHealth>,
    /// Other values that the host reports, such as the lag of the change feed.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// Whether policy, budget and trust levels can be read, and what happens while they can't.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct GovernanceHealth {
    /// `restrict`, `deny` or `allow`.
    pub mode: String,
    /// `ok` or `degraded`.
    pub state: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub struct StatsView {
    pub queue: QueueView,
    /// When the counts were read, at most a second ago.
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub timestamp: Timestamp,
    /// Time of the newest change that is counted.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub recorded_until: Option<Timestamp>,
    /// True while some tenants have not been counted since the server started. Omitted if
    /// false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// By agent and status, for a caller with a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_agent: Option<BTreeMap<String, BTreeMap<String, u64>>>,
    /// By priority and status, for a caller with a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_priority: Option<BTreeMap<String, BTreeMap<String, u64>>>,
}

impl StatsView {
    pub fn public(figures: QueueCounts) -> Self {
        Self {
            queue: figures.queue.into(),
            timestamp: figures.read_at,
            recorded_until: figures.recorded_until,
            partial: figures.partial,
            by_agent: None,
            by_priority: None,
        }
    }

    pub fn detailed(stats: Stats) -> Self {
        let mut by_agent = BTreeMap::<_, BTreeMap<_, _>>::new();
        let mut by_priority = BTreeMap::<_, BTreeMap<_, _>>::new();
        for row in &stats.rows {
            let status = row.status.as_str().to_owned();
            let agent = by_agent.entry(row.agent.as_str().to_owned()).or_default();
            *agent.entry(status.clone()).or_default() += row.count;
            let priority = by_priority.entry(row.priority.as_str().to_owned()).or_default();
            *priority.entry(status).or_default() += row.count;
        }
        Self {
            by_agent: Some(by_agent),
            by_priority: Some(by_priority),
            queue: stats.queue.into(),
            timestamp: stats.read_at,
            recorded_until: stats.as_of,
            partial: false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskCreated {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    pub message: String,
    pub task: TaskView,
}

impl From<Created> for TaskCreated {
    /// Describes the task as it was created, so that a repeated request gets the same message:
    /// a gated task names its first approval.
    fn from(created: Created) -> Self {
        let task = &created.task.task;
        let first = task.log.first().map_or(task.status, |first| first.status);
        let gated = first == Status::Pending;
        let mut message = format!("Task created and assigned to {}", task.agent);
        if first == Status::Blocked {
            message.push_str(
                "; blocked: agent_not_built, it waits for an external worker to claim it",
            );
        }
        if let Some(approval) = task.approval.as_ref().filter(|_| gated) {
            let first =
                if approval.n <= 1 { approval.id.clone() } else { ApprovalId::of(&task.id, 1) };
            message.push_str(&format!("; waiting for approval {first}"));
        }
        Self { success: true, task_id: task.id.clone(), message, task: created.task.into() }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskAnswer {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    pub task: TaskView,
}

/// Response to a person's change of a task.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskChanged {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    #[schemars(schema_with = "schemas::status")]
    pub status: Status,
    pub message: String,
    pub task: TaskView,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    pub success: bool,
    pub count: usize,
    pub tasks: Vec<TaskView>,
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusAnswer {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    #[schemars(schema_with = "schemas::status")]
    pub status: Status,
    /// The fence of a claim with `worker`. The request that ends the task must carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Timeline {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    pub count: usize,
    pub timeline: Vec<TimelineView>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

/// An entry of a task's timeline.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "TimelineEntry")]
pub struct TimelineView {
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub at: Timestamp,
    /// `change`, `step`, `approval` or `event`.
    pub kind: String,
    pub what: String,
    pub by: Option<String>,
    pub text: String,
    pub version: Option<u64>,
    #[schemars(with = "Option<String>")]
    pub status: Option<Status>,
    pub duration_ms: Option<u64>,
}

impl From<TimelineEntry> for TimelineView {
    fn from(entry: TimelineEntry) -> Self {
        Self {
            at: entry.at,
            kind: entry.kind.as_str().to_owned(),
            what: entry.what,
            by: entry.by,
            text: entry.text,
            version: entry.version,
            status: entry.status,
            duration_ms: entry.duration_ms,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventPublished {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub event_type: EventType,
    pub message: String,
    pub event_id: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventList {
    pub success: bool,
    pub count: usize,
    pub events: Vec<EventView>,
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalList {
    pub success: bool,
    pub count: usize,
    pub approvals: Vec<ApprovalView>,
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalHistory {
    pub success: bool,
    pub count: usize,
    pub history: Vec<ApprovalView>,
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalAnswer {
    pub success: bool,
    pub approval: ApprovalView,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalDecided {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub approval_id: ApprovalId,
    pub message: String,
}

/// An API key's metadata, without the key itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyView {
    pub name: String,
    #[schemars(schema_with = "schemas::role")]
    pub role: Role,
    #[schemars(schema_with = "schemas::id")]
    pub tenant_id: TenantId,
    /// The first characters, to tell keys apart.
    pub prefix: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub created_at: Timestamp,
    pub created_by: String,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub revoked_at: Option<Timestamp>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            name: key.name,
            role: key.role,
            tenant_id: key.tenant,
            prefix: key.prefix,
            created_at: key.created_at,
            created_by: key.created_by,
            revoked_at: key.revoked_at,
        }
    }
}

/// A new key. It is shown only once; only its hash is stored.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct KeyCreated {
    pub success: bool,
    pub key: String,
    #[serde(flatten)]
    pub about: KeyView,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    pub success: bool,
    pub count: usize,
    pub keys: Vec<KeyView>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: usize,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyRevoked {
    pub success: bool,
    pub name: String,
    pub message: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct TokenIssued {
    pub success: bool,
    pub access_token: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    pub sub: String,
    #[schemars(schema_with = "schemas::role")]
    pub role: Role,
    #[schemars(schema_with = "schemas::id")]
    pub tenant_id: TenantId,
}

pub(crate) fn is_zero(count: &usize) -> bool {
    *count == 0
}
