//! A domain's list of tasks and its results, and the registry that lists its agent.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{Status, TaskId, Timestamp};

use super::{LegacyError, LegacyEvent, WriteOutcome};
use crate::{CreateTask, TaskView};

/// A task from a domain's list.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainTask {
    pub id: TaskId,
    /// The id that the domain's clients use.
    pub peer_id: String,
    pub task: CreateTask,
}

/// A message from a domain's list.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainMessage {
    /// The bytes as stored in the list.
    pub message: Vec<u8>,
    /// Whether the message was taken before.
    pub again: bool,
    /// The task, or why the message is none.
    pub task: Result<DomainTask, String>,
}

/// A message that can't be imported. It is stored where people find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    pub message: Vec<u8>,
    pub reason: String,
    pub at: Timestamp,
}

/// What a domain's clients see of a task.
#[derive(Clone, Debug)]
pub struct DomainResult<'a> {
    /// A result that is stored with this version or a later one is kept.
    pub task: &'a TaskView,
    /// The agent's notes, oldest first: time and text.
    pub notes: Vec<(String, String)>,
    /// The task's state as readable text.
    pub line: String,
    pub at: Timestamp,
}

impl DomainResult<'_> {
    /// Whether a task is finished for the domain's clients, which do not wait for approvals.
    pub fn is_over(status: Status) -> bool {
        !matches!(status, Status::Pending | Status::Assigned | Status::InProgress)
    }
}

/// A domain's list of tasks and its results.
#[async_trait]
pub trait LegacyDomains: Send + Sync {
    /// Moves messages, byte for byte, from the pending to the active list: first those that
    /// were taken and not [settled](Self::settle_message) in time, then the longest waiting.
    async fn take_messages(
        &self,
        domain: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<DomainMessage>, LegacyError>;

    /// Records the message's task id, by which the message can be found. Its lease continues.
    async fn begin(&self, domain: &str, id: &str, message: &[u8]) -> Result<(), LegacyError>;

    /// The task is recorded in our backend: ends the message's lease.
    async fn settle_message(&self, domain: &str, message: &[u8]) -> Result<(), LegacyError>;

    /// The event that the backend publishes for a rejected message. `None` if the message does
    /// not say which task it is.
    fn refusal(&self, rejected: &RejectedMessage) -> Option<LegacyEvent>;

    /// Moves a message that can't be imported from the active to the rejected list. If it names
    /// a task without a result, writes and publishes a failed result.
    async fn refuse(&self, domain: &str, rejected: &RejectedMessage) -> Result<(), LegacyError>;

    /// In one transaction: writes the result's fields and logs, publishes it and, if the task
    /// is finished, removes its message from the active list.
    async fn write_result(
        &self,
        domain: &str,
        result: &DomainResult<'_>,
    ) -> Result<WriteOutcome, LegacyError>;

    /// The tasks that have begun and are not finished.
    async fn open(&self, domain: &str) -> Result<Vec<String>, LegacyError>;

    async fn pending(&self, domain: &str) -> Result<u64, LegacyError>;
}

/// A domain's agent as the legacy programs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainAgent {
    pub id: String,
    pub domain: String,
    pub container_id: Option<String>,
    pub workers: Vec<String>,
    pub at: Timestamp,
}

#[async_trait]
pub trait LegacyRegistry: Send + Sync {
    async fn register(&self, agent: &DomainAgent) -> Result<(), LegacyError>;

    /// Marks the agent as alive for `lasts` from `at`. Returns false, and writes nothing, if
    /// the registry does not know it (any more).
    async fn beat(&self, id: &str, at: Timestamp, lasts: Duration) -> Result<bool, LegacyError>;

    async fn deregister(&self, agent: &DomainAgent) -> Result<(), LegacyError>;
}
