//! A request for a task, and what of it is decided on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use watchbill_domain::{Body, Priority, TaskId, TaskType, TenantId, Timestamp, names_repository};

use super::Asked;

/// A request for a task, parsed and bounded, whoever it came from.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub tenant: TenantId,
    pub task_type: TaskType,
    pub priority: Priority,
    pub source: String,
    pub payload: Map<String, Value>,
    pub metadata: Map<String, Value>,
    /// As the caller wrote it: seconds or a span.
    pub sla_target: Option<String>,
    pub sla_deadline: Option<Timestamp>,
    pub parent: Option<TaskId>,
    pub trace_id: Option<String>,
    pub max_retries: Option<u32>,
    /// Who asks: a key's name, `reaction:<name>`, …
    pub created_by: String,
    /// Who asks besides, see [`Task`](watchbill_domain::Task)'s field; those of its parent are
    /// added.
    pub also_requested_by: Vec<String>,
    pub identity: Identity,
    /// Reactions between the first cause and this task.
    pub hops: u8,
}

/// What a task's id is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A new one, UUIDv7.
    Fresh,
    /// Derived from tenant, caller and this key; a repeat with the same body is the same task.
    IdempotencyKey(String),
    /// Derived from a cause: (reaction, event id), slot, and so on.
    Cause(Vec<String>),
    /// As a peer gave it.
    Given(TaskId),
    /// The retry of an ended task: one of each, however often it is asked for.
    Retry { of: TaskId, failure_counted: bool },
}

impl NewTask {
    /// Whether the payload names a repository: `investigate` then goes to dev.
    pub fn has_repository(&self) -> bool {
        names_repository(&self.payload)
    }

    /// It is the retry of a task whose failure has counted already.
    pub fn is_failure_counted(&self) -> bool {
        matches!(self.identity, Identity::Retry { failure_counted: true, .. })
    }
}

/// A task about to be made: the request, and what the service has worked out for it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub new: Arc<NewTask>,
    pub id: TaskId,
    pub trace_id: String,
    /// The payload as the header holds it.
    pub payload: Body,
    /// What the request's `sla_target` stands for.
    pub sla_span: Option<Duration>,
    /// Who asks besides, those of the parent included.
    pub also_requested_by: Vec<String>,
    pub body_hash: Option<String>,
    /// The approval it waits for, where a person is asked first.
    pub approval: Option<Asked>,
}
