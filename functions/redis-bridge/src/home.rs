//! Our side of the bridge: the bundle, in the same process or behind its HTTP API.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{Agent, ApprovalId, EventId, TaskId, TaskType};
use watchbill_wire::{
    ApprovalView, BudgetView, CreateTask, EventView, PatchStatus, PublishEvent, TaskView,
};

/// Why the bundle did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Busy, or not there: the same again after a while.
    #[error("{reason}")]
    Retry { after: Duration, reason: String },
    /// There is another task of that id, or the task's state does not allow it.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotFound(String),
    /// It will not be done, however often it is asked for.
    #[error("{0}")]
    Refused(String),
}

/// A task of a peer's, with the id that it has there.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskOfPeer {
    pub id: TaskId,
    pub task: CreateTask,
    pub trace_id: Option<String>,
}

/// An event of a peer's.
#[derive(Clone, Debug, PartialEq)]
pub struct EventOfPeer {
    /// The same for a repeat of the same event.
    pub id: EventId,
    pub event: PublishEvent,
    /// Reactions that led to it.
    pub hops: u8,
}

/// What came after an event, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    pub events: Vec<EventView>,
    /// The event after which reading goes on; nothing where none was named, and none came or
    /// is known from before.
    pub reached: Option<EventId>,
}

/// What the bridge needs of the bundle. All within one tenant.
#[async_trait]
pub trait Home: Send + Sync {
    /// Which agent such a task goes to here.
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent;

    /// The agents whose work is built.
    async fn built(&self) -> Result<Vec<Agent>, HomeError>;

    /// Accepts a task: durable when this returns. A repeat gives the task that is there, and
    /// so does another task of the same id, which is said in the log: an id is one task.
    async fn create(&self, new: TaskOfPeer) -> Result<TaskView, HomeError>;

    /// The tasks as they are now, in the order of the ids.
    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, HomeError>;

    /// Recorded events after one of them, or from now on; waits for the first if there is none.
    /// `NotFound` where that event is not known here.
    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<Followed, HomeError>;

    /// Records an event and sends it out here; a repeat is the same event.
    async fn publish(&self, event: EventOfPeer) -> Result<(), HomeError>;

    /// An agent's tasks that are assigned and not begun, perhaps of one type alone.
    async fn assigned(
        &self,
        agent: Agent,
        task_type: Option<TaskType>,
    ) -> Result<Vec<TaskView>, HomeError>;

    /// A worker's word on a task.
    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), HomeError>;

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, HomeError>;

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, HomeError>;

    async fn budget(&self) -> Result<BudgetView, HomeError>;

    /// What an agent noted of a task, oldest first: time and text.
    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, HomeError>;
}
