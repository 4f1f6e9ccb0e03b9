//! A task of a peer's, read.

use watchbill_domain::{Agent, Status, TaskType, Timestamp, names_repository};

use crate::CreateTask;

/// A task out of a peer's queue.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerTaskView {
    pub status: Status,
    pub assignee: Assignee,
    pub created_at: Option<Timestamp>,
    pub trace_id: Option<String>,
    pub task: CreateTask,
}

/// Whom a peer gave a task to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignee {
    Nobody,
    Known(Agent),
    /// An agent of its installation that has no counterpart here.
    Other,
}

/// Whom a task is for, as far as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    pub assignee: Assignee,
    /// Where it is one that is known here.
    pub task_type: Option<TaskType>,
    pub has_repo: bool,
}

impl PeerTaskView {
    pub fn addressee(&self) -> Addressee {
        Addressee {
            assignee: self.assignee,
            task_type: Some(self.task.task_type),
            has_repo: names_repository(&self.task.payload),
        }
    }
}

/// What stands under an id of the queue, read as a task that may be taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadTask {
    pub status: String,
    /// The assignment with which we handed it over, where it is one of ours.
    pub fed: Option<u32>,
    /// Whom it is for, also of a task that can't be read otherwise; nothing where these
    /// programs can't read it either.
    pub to: Option<Addressee>,
    /// The task, and its data as they stand there.
    pub task: Result<(PeerTaskView, String), Unreadable>,
}

/// What can't be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// For people.
    pub reason: String,
    /// What stands in place of its data, if anything.
    pub data: Option<Vec<u8>>,
}
