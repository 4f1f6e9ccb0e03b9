//! The lists by which a domain gets its tasks and gives back results, and the registry in which
//! its agent is found.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{Status, TaskId, Timestamp};

use super::{PeerError, PeerEvent, Wrote};
use crate::{CreateTask, TaskView};

/// A task out of a domain's list.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainTask {
    pub id: TaskId,
    /// The id that the domain's clients know it by.
    pub peer_id: String,
    pub task: CreateTask,
}

/// A message of a domain.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainMessage {
    /// As it stands in the list.
    pub message: Vec<u8>,
    /// It had been taken before.
    pub again: bool,
    /// The task, or why it is none.
    pub task: Result<DomainTask, String>,
}

/// A message that can't be taken over, and is put where people find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    pub message: Vec<u8>,
    pub reason: String,
    pub at: Timestamp,
}

/// What a domain's clients are shown of a task.
#[derive(Clone, Debug)]
pub struct DomainResult<'a> {
    /// What is there with this version or a later one stays.
    pub task: &'a TaskView,
    /// What its agent noted, oldest first: time and text.
    pub notes: Vec<(String, String)>,
    /// How it stands, in words.
    pub line: String,
    pub at: Timestamp,
}

impl DomainResult<'_> {
    /// Whether nothing more is done to a task, as the domain's clients see it: they don't wait
    /// for a person.
    pub fn is_over(status: Status) -> bool {
        !matches!(status, Status::Pending | Status::Assigned | Status::InProgress)
    }
}

/// The lists by which a domain gets its tasks and gives back results.
#[async_trait]
pub trait PeerDomains: Send + Sync {
    /// Moves messages from the pending to the active ones, the longest waiting first, and
    /// first of all those that were taken and not [settled](Self::settle_message) in time. The bytes are
    /// kept exactly.
    async fn take_messages(
        &self,
        domain: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<DomainMessage>, PeerError>;

    /// The message is of this task: under its id the message is found again. Its lease goes on.
    async fn begin(&self, domain: &str, id: &str, message: &[u8]) -> Result<(), PeerError>;

    /// The task is recorded here: the message's lease ends.
    async fn settle_message(&self, domain: &str, message: &[u8]) -> Result<(), PeerError>;

    /// The event that the bundle has of a rejected message; nothing where it does not say which
    /// task it is.
    fn refusal(&self, rejected: &RejectedMessage) -> Option<PeerEvent>;

    /// Moves a message that can't be taken over from the active ones to the rejected. Where it
    /// says which task it is and no result stands there, a failed one does from then on, and is
    /// published.
    async fn refuse(&self, domain: &str, rejected: &RejectedMessage) -> Result<(), PeerError>;

    /// In one step: the result's fields, its logs, its publication, and once it is over the
    /// end of its message among the active ones.
    async fn write_result(
        &self,
        domain: &str,
        result: &DomainResult<'_>,
    ) -> Result<Wrote, PeerError>;

    /// The tasks that have begun and are not done.
    async fn open(&self, domain: &str) -> Result<Vec<String>, PeerError>;

    async fn pending(&self, domain: &str) -> Result<u64, PeerError>;
}

/// A domain's agent as a peer's programs find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainAgent {
    pub id: String,
    pub domain: String,
    pub container_id: Option<String>,
    pub workers: Vec<String>,
    pub at: Timestamp,
}

#[async_trait]
pub trait PeerRegistry: Send + Sync {
    async fn register(&self, agent: &DomainAgent) -> Result<(), PeerError>;

    /// Alive for this long from now. False where the registry does not know it (any more):
    /// nothing is written then.
    async fn beat(&self, id: &str, at: Timestamp, lasts: Duration) -> Result<bool, PeerError>;

    async fn deregister(&self, agent: &DomainAgent) -> Result<(), PeerError>;
}
