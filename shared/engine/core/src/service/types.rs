//! Parameters and results of the services.

use std::time::Duration;

use serde_json::{Map, Value};
use watchbill_domain::{
    Agent, ApiKey, Approval, Event, IdError, Priority, ReputationEvent, Status, Task, TaskId,
    TaskType, TenantId, Timestamp, UnknownName,
};

use super::weight;
use crate::ledger::PositionContent;
use crate::ports::Key;

/// A task with everything stored next to its header.
#[derive(Clone, Debug)]
pub struct FullTask {
    pub task: Task,
    pub version: u64,
    pub payload: Map<String, Value>,
    pub result: Option<Map<String, Value>>,
    pub children: Vec<TaskId>,
}

impl FullTask {
    /// Its approximate size in JSON.
    pub fn weight(&self) -> usize {
        weight::task(self)
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    pub entries: Vec<T>,
    /// Where the next page begins, if there is more.
    pub next: Option<String>,
    /// The number of unreadable items that were left out, whether they would have matched or
    /// not; the log names them.
    pub unreadable: usize,
}

#[derive(Clone, Debug)]
pub struct Created {
    pub task: FullTask,
    /// True when the same request had been accepted before.
    pub repeated: bool,
}

#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub status: Option<Status>,
    pub agent: Option<Agent>,
    pub task_type: Option<TaskType>,
    pub priority: Option<Priority>,
    pub source: Option<String>,
    pub parent: Option<TaskId>,
    /// Only tasks that no process of this build works on, see [`Task::not_built`].
    pub not_built: bool,
    /// What an external worker may claim: assigned tasks, and those that no process of this
    /// build works on.
    pub claimable: bool,
    /// Created at this time or later: older tasks are not even read.
    pub created_from: Option<Timestamp>,
}

/// One entry of a task's history.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    pub at: Timestamp,
    pub kind: TimelineKind,
    /// `created`, `claimed`, `observe`, an event type, a step's name.
    pub what: String,
    pub by: Option<String>,
    pub text: String,
    /// The task's version, where the entry is a task change.
    pub version: Option<u64>,
    pub status: Option<Status>,
    /// Duration in milliseconds, where it was measured.
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct TimelinePage {
    pub entries: Vec<TimelineEntry>,
    pub next_cursor: Option<String>,
    /// As for [`Listed::unreadable`].
    pub unreadable: usize,
    /// Approximate size of the entries in JSON, bytes.
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimelineKind {
    Change,
    EffectRecord,
    Approval,
    Event,
}

impl TimelineKind {
    pub fn as_str(self) -> &'static str {
        match self {
            TimelineKind::Change => "change",
            TimelineKind::EffectRecord => "step",
            TimelineKind::Approval => "approval",
            TimelineKind::Event => "event",
        }
    }
}

/// A status report by a worker or caller (`PATCH /tasks/{id}/status`).
#[derive(Clone, Debug)]
pub struct StatusChange {
    pub status: Status,
    pub error: Option<String>,
    /// The result of a completed task; becomes `metadata.result`.
    pub result: Option<Map<String, Value>>,
}

/// Which of the workers that share a key reports, and under which claim. Without a name they
/// count as one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerClaim {
    pub worker: Option<String>,
    /// The fence that the claim returned.
    pub fence: Option<u64>,
}

/// The result of setting a status.
#[derive(Clone, Debug)]
pub struct StatusSet {
    pub task: FullTask,
    /// The task's fence as of this change, which may be older than `task`.
    pub fence: u64,
}

#[derive(Clone, Debug)]
pub struct FullApproval {
    pub approval: Approval,
    pub version: u64,
}

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// A whole type, or a group with its dot (`task.`).
    pub event_type: Option<String>,
    pub task_id: Option<TaskId>,
}

#[derive(Clone, Debug)]
pub struct EventPage {
    pub events: Vec<Event>,
    pub next_cursor: Option<String>,
    /// As for [`Listed::unreadable`]: ledger batches.
    pub unreadable: usize,
    /// Approximate size of the events in JSON, bytes.
    pub bytes: usize,
}

/// Which entries of the audit log are wanted.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub kind: Option<String>,
    pub task: Option<TaskId>,
    pub actor: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// One line of the audit log: a notable task change, or a record.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The ledger batch that contains it; `place` is its position there, from 1.
    pub seq: u64,
    pub place: usize,
    pub at: Timestamp,
    pub kind: String,
    pub actor: String,
    pub subject: String,
    pub text: String,
    pub task_id: Option<TaskId>,
    /// The task's version after the change.
    pub version: Option<u64>,
    pub details: Map<String, Value>,
    pub trace_id: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    pub entries: Vec<AuditEntry>,
    pub next_cursor: Option<String>,
    /// Later changes may not be recorded yet.
    pub recorded_until: Option<Timestamp>,
    /// The newest batch; 0 where there is none.
    pub batch: u64,
    /// Approximate size of the entries in JSON, bytes.
    pub bytes: usize,
}

/// Batches as they are stored, each with its number.
#[derive(Clone, Debug)]
pub struct AuditBatches {
    pub batches: Vec<(u64, PositionContent)>,
    /// The newest batch that the list of batches or the statistics refer to.
    pub seen: u64,
    pub next: Option<u64>,
    /// Size of their lines in bytes.
    pub bytes: usize,
}

/// An event as a caller publishes it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub tenant: TenantId,
    pub event_type: String,
    pub source_agent: String,
    pub payload: Map<String, Value>,
    pub task_id: Option<TaskId>,
    pub trace_id: Option<String>,
    pub priority: Option<String>,
    pub published_by: String,
    /// A repeat with the same id is the same event.
    pub event_id: Option<String>,
    pub hops: u8,
}

/// A score change of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReputationLine {
    pub agent: Agent,
    pub event: ReputationEvent,
    /// Points, before the score is limited to its bounds.
    pub delta: i16,
    /// The note of the change that caused it, such as an error.
    pub reason: Option<String>,
    pub trace_id: String,
    pub task: TaskId,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct KeyPage {
    pub keys: Vec<ApiKey>,
    pub next_cursor: Option<String>,
    /// As for [`Listed::unreadable`].
    pub unreadable: usize,
}

#[derive(Clone, Debug)]
pub struct ReputationPage {
    pub events: Vec<ReputationLine>,
    pub next_cursor: Option<String>,
    /// As for [`Listed::unreadable`]: ledger batches.
    pub unreadable: usize,
}

/// Why a service call failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("{what} '{id}' not found")]
    NotFound { what: &'static str, id: String },
    /// The current state does not allow it.
    #[error("{message}")]
    Conflict { message: String },
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    #[error("{what} has {bytes} bytes; the maximum is {most}")]
    TooLarge { what: &'static str, bytes: usize, most: usize },
    #[error("{message}")]
    Forbidden { message: String },
    #[error("busy; try again in {after:?}")]
    Busy { after: Duration },
    #[error("{reason}")]
    Down { reason: String },
    /// Only this item, until someone repairs it: a retry gives the same error.
    #[error("item {key} can't be read: {reason}; restore it from a backup")]
    Unreadable { key: Key, reason: String },
}

impl ServiceError {
    /// Identifiers must not look like a secret, because they are displayed.
    pub(crate) fn secret(field: &'static str) -> Self {
        let message = format!("'{field}' looks like a secret, and names are shown: choose another");
        ServiceError::Invalid { field, message }
    }
}

impl From<UnknownName> for ServiceError {
    fn from(error: UnknownName) -> Self {
        ServiceError::Invalid { field: error.what, message: error.to_string() }
    }
}

impl From<IdError> for ServiceError {
    fn from(error: IdError) -> Self {
        ServiceError::Invalid { field: "id", message: error.to_string() }
    }
}
