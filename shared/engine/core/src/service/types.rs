//! What the service takes and gives.

use std::time::Duration;

use serde_json::{Map, Value};
use watchbill_domain::{
    Agent, ApiKey, Approval, Event, IdError, Priority, ReputationEvent, Status, Task, TaskId,
    TaskType, TenantId, Timestamp, UnknownName,
};

use super::weight;
use crate::ledger::Found;
use crate::ports::Key;

/// A task with all that stands beside its header.
#[derive(Clone, Debug)]
pub struct FullTask {
    pub task: Task,
    pub version: u64,
    pub payload: Map<String, Value>,
    pub result: Option<Map<String, Value>>,
    pub children: Vec<TaskId>,
}

impl FullTask {
    /// What it weighs in JSON, about.
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
    /// So many of the items that were looked at can't be read and are left out, whether they
    /// would have been asked for or not; the log names them.
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
    /// Only those that nobody here works on, see [`Task::not_built`].
    pub not_built: bool,
    /// Those of an agent that are assigned, and those that nobody here works on besides: what a
    /// worker outside may claim.
    pub claimable: bool,
    /// Created then or later: what is older is not even looked at.
    pub created_from: Option<Timestamp>,
}

/// One line of a task's history.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    pub at: Timestamp,
    pub kind: TimelineKind,
    /// `created`, `claimed`, `observe`, an event type, a step's name.
    pub what: String,
    pub by: Option<String>,
    pub text: String,
    /// The task's version, where the entry is a change of it.
    pub version: Option<u64>,
    pub status: Option<Status>,
    /// Milliseconds it took, where that was measured.
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct TimelinePage {
    pub entries: Vec<TimelineEntry>,
    pub next_cursor: Option<String>,
    /// As for [`Listed::unreadable`].
    pub unreadable: usize,
    /// What the entries weigh in JSON, about.
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimelineKind {
    Change,
    Step,
    Approval,
    Event,
}

impl TimelineKind {
    pub fn as_str(self) -> &'static str {
        match self {
            TimelineKind::Change => "change",
            TimelineKind::Step => "step",
            TimelineKind::Approval => "approval",
            TimelineKind::Event => "event",
        }
    }
}

/// A worker's or caller's word on a task's status (`PATCH /tasks/{id}/status`).
#[derive(Clone, Debug)]
pub struct StatusChange {
    pub status: Status,
    pub error: Option<String>,
    /// What a completed task gives back; becomes `metadata.result`.
    pub result: Option<Map<String, Value>>,
}

/// Which of the workers that share a key says so, and under which claim. Nothing: they count as
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerClaim {
    pub worker: Option<String>,
    /// The fence that the claim was answered with.
    pub fence: Option<u64>,
}

/// A status that was set.
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
    /// What the events weigh in JSON, about.
    pub bytes: usize,
}

/// Which entries of the audit are asked for.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub kind: Option<String>,
    pub task: Option<TaskId>,
    pub actor: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// One line of the audit: a change of a task that is of note, or a record.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The ledger's batch it stands in, and its place there, from 1.
    pub seq: u64,
    pub place: usize,
    pub at: Timestamp,
    pub kind: String,
    pub actor: String,
    pub subject: String,
    pub text: String,
    pub task_id: Option<TaskId>,
    /// The task's, after the change.
    pub version: Option<u64>,
    pub details: Map<String, Value>,
    pub trace_id: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    pub entries: Vec<AuditEntry>,
    pub next_cursor: Option<String>,
    /// What happened later may not be recorded yet.
    pub recorded_until: Option<Timestamp>,
    /// The newest batch; 0 where there is none.
    pub batch: u64,
    /// What the entries weigh in JSON, about.
    pub bytes: usize,
}

/// Batches as they stand, each with its number.
#[derive(Clone, Debug)]
pub struct AuditBatches {
    pub batches: Vec<(u64, Found)>,
    /// The newest that the list of batches or the statistics know of.
    pub seen: u64,
    pub next: Option<u64>,
    /// Bytes of their lines.
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

/// Something that an agent earned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReputationLine {
    pub agent: Agent,
    pub event: ReputationEvent,
    /// Points of score, before the bounds of the score.
    pub delta: i16,
    /// What was noted of the change that brought it, such as an error.
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

/// Why a call to the service was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("{what} '{id}' not found")]
    NotFound { what: &'static str, id: String },
    /// The state does not allow it now.
    #[error("{message}")]
    Conflict { message: String },
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    #[error("{what} has {bytes} bytes, {most} are the most")]
    TooLarge { what: &'static str, bytes: usize, most: usize },
    #[error("{message}")]
    Forbidden { message: String },
    #[error("busy; try again in {after:?}")]
    Busy { after: Duration },
    #[error("{reason}")]
    Down { reason: String },
    /// This item alone, until somebody mends it: trying again gives the same.
    #[error("item {key} can't be read: {reason}; restore it from a backup")]
    Unreadable { key: Key, reason: String },
}

impl ServiceError {
    /// Something that names things may not look like a secret, because names are shown.
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
