//! The port to our side of the bridge: the Watchbill core.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{Agent, ApprovalId, EventId, TaskId, TaskType};
use watchbill_wire::{
    ApprovalView, BudgetView, CreateTask, EventView, PatchStatus, PublishEvent, TaskView,
};

/// Why the backend did not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Busy or unavailable: retry the same request after this long.
    #[error("{reason}")]
    Retry { after: Duration, reason: String },
    /// Another task has that id, or the task's state does not allow the change.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotFound(String),
    /// A permanent error: a retry would fail too.
    #[error("{0}")]
    Refused(String),
}

/// A task of the legacy queue, with the id under which to create it here.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyTaskRequest {
    pub id: TaskId,
    pub task: CreateTask,
    pub trace_id: Option<String>,
}

/// An event of the legacy queue.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyEventRequest {
    /// The same id for every repeat of the event.
    pub id: EventId,
    pub event: PublishEvent,
    /// How many reactions led to the event.
    pub hops: u8,
}

/// The events after a given one, oldest first.
#[derive(Clone, Debug, Default)]
pub struct EventsAfter {
    pub events: Vec<EventView>,
    /// The event after which reading continues. `None` if the caller named none, none arrived,
    /// and the backend knows no earlier one.
    pub reached: Option<EventId>,
}

/// What the bridge needs of the backend. All calls are within one tenant.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The agent that gets such a task here.
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent;

    /// The agents that are implemented.
    async fn built(&self) -> Result<Vec<Agent>, BackendError>;

    /// Creates a task, which is durable when this returns. A repeat returns the existing task.
    /// So does a different task with the same id, which is logged: an id names one task.
    async fn create(&self, new: LegacyTaskRequest) -> Result<TaskView, BackendError>;

    /// The current tasks, in the order of `ids`.
    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, BackendError>;

    /// Recorded events after `after`, or from now on. If there are none, waits up to `wait` for
    /// the first. Returns `NotFound` if the backend does not know that event.
    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<EventsAfter, BackendError>;

    /// Records and publishes an event. Idempotent by the event's id.
    async fn publish(&self, event: LegacyEventRequest) -> Result<(), BackendError>;

    /// An agent's tasks that are assigned and not started, optionally of one type only.
    async fn assigned(
        &self,
        agent: Agent,
        task_type: Option<TaskType>,
    ) -> Result<Vec<TaskView>, BackendError>;

    /// Applies a worker's status change to a task.
    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), BackendError>;

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, BackendError>;

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, BackendError>;

    async fn budget(&self) -> Result<BudgetView, BackendError>;

    /// The effects recorded for a task as time and text, oldest first.
    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, BackendError>;
}
