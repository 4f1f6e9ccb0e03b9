//! A parsed task from the legacy queue.

use watchbill_domain::{Agent, Status, TaskType, Timestamp, names_repository};

use crate::CreateTask;

/// A task from a legacy queue.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyTaskView {
    pub status: Status,
    pub assignee: Assignee,
    pub created_at: Option<Timestamp>,
    pub trace_id: Option<String>,
    pub task: CreateTask,
}

/// The agent to which the legacy programs assigned a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignee {
    Nobody,
    Known(Agent),
    /// An agent of the legacy installation that has no counterpart here.
    Other,
}

/// Whom a task is for, as far as its data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    pub assignee: Assignee,
    /// The task type, if it is known here.
    pub task_type: Option<TaskType>,
    pub has_repo: bool,
}

impl LegacyTaskView {
    pub fn addressee(&self) -> Addressee {
        Addressee {
            assignee: self.assignee,
            task_type: Some(self.task.task_type),
            has_repo: names_repository(&self.task.payload),
        }
    }
}

/// The record under an id of the queue, parsed as a task that may be imported.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadTask {
    pub status: String,
    /// The assignment with which we exported it, if it is one of our tasks.
    pub fed: Option<u32>,
    /// Whom the task is for, even if the rest of it can't be parsed. `None` if the legacy
    /// programs can't read it either.
    pub to: Option<Addressee>,
    /// The task and its stored data.
    pub task: Result<(LegacyTaskView, String), ImportError>,
}

/// Why a task can't be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// For people.
    pub reason: String,
    /// The data that is stored instead, if any.
    pub data: Option<Vec<u8>>,
}
