//! A request for a task, and its prepared form.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use watchbill_domain::{Body, Priority, TaskId, TaskType, TenantId, Timestamp, names_repository};

use super::ApprovalRequest;

/// A parsed and validated request for a task, from any source.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub tenant: TenantId,
    pub task_type: TaskType,
    pub priority: Priority,
    pub source: String,
    pub payload: Map<String, Value>,
    pub metadata: Map<String, Value>,
    /// As the caller wrote it: seconds or a duration.
    pub sla_target: Option<String>,
    pub sla_deadline: Option<Timestamp>,
    pub parent: Option<TaskId>,
    pub trace_id: Option<String>,
    pub max_retries: Option<u32>,
    /// Who requests it: a key's name, `reaction:<name>`, …
    pub created_by: String,
    /// Further requesters, see the field of [`Task`](watchbill_domain::Task); those of its
    /// parent are added.
    pub also_requested_by: Vec<String>,
    pub identity: Identity,
    /// Number of reactions between the first cause and this task.
    pub hops: u8,
}

/// What a task's id is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A new UUIDv7.
    Fresh,
    /// Derived from tenant, caller and this key; a repeat with the same body is the same task.
    IdempotencyKey(String),
    /// Derived from a cause: (reaction, event id), slot, and so on.
    Cause(Vec<String>),
    /// As the legacy queue gave it.
    Given(TaskId),
    /// The retry of an ended task: at most one per task, however often it is requested.
    Retry { of: TaskId, failure_counted: bool },
}

impl NewTask {
    /// Whether the payload names a repository: `investigate` then goes to dev.
    pub fn has_repository(&self) -> bool {
        names_repository(&self.payload)
    }

    /// Whether it is the retry of a task whose failure has been counted already.
    pub fn is_failure_counted(&self) -> bool {
        matches!(self.identity, Identity::Retry { failure_counted: true, .. })
    }
}

/// A task about to be created: the request, and what the service has derived for it.
#[derive(Clone, Debug)]
pub struct PreparedTask {
    pub new: Arc<NewTask>,
    pub id: TaskId,
    pub trace_id: String,
    /// The payload as the header stores it.
    pub payload: Body,
    /// The request's `sla_target` as a duration.
    pub sla_span: Option<Duration>,
    /// Further requesters, those of the parent included.
    pub also_requested_by: Vec<String>,
    pub body_hash: Option<String>,
    /// The approval the task waits for, where one is required first.
    pub approval: Option<ApprovalRequest>,
}
