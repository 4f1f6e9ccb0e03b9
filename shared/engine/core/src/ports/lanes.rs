//! The port for sending task references to the priority lanes.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use watchbill_domain::{Agent, Priority, TaskId, TenantId};

/// A reference to a task, never the work itself: it may arrive twice, late, or after the task
/// has ended, and the claim decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneMessage {
    pub tenant: TenantId,
    pub task_id: TaskId,
    /// The task's assignment that this refers to; a message of an older one is only acknowledged.
    pub assignment: u32,
    pub agent: Agent,
    pub priority: Priority,
    pub trace_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LanesError {
    #[error("{failed} of {sent} lane messages were not accepted: {reason}")]
    Partial { sent: usize, failed: usize, reason: String },
    /// These are refused because of their content, now and on every retry; all others were
    /// accepted.
    #[error("{} lane messages are refused: {reason}", messages.len())]
    Refused { messages: Vec<LaneMessage>, reason: String },
    #[error("the lanes can't be reached: {reason}")]
    Down { reason: String },
}

/// The sending side of the priority lanes: one lane per agent and priority.
#[async_trait]
pub trait Lanes: Send + Sync {
    /// Enqueues each message with its delay (zero: at once). An error other than
    /// [`LanesError::Refused`] means that some messages may not have been accepted: enqueue all
    /// again, a repeat is harmless.
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError>;

    /// The approximate number of messages waiting in a lane.
    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError>;
}
