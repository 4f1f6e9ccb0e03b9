use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use watchbill_domain::{Agent, Priority, TaskId, TenantId};

/// A pointer to work, never the work itself: it may come twice, late, or after the task
/// has ended, and the claim decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneMessage {
    pub tenant: TenantId,
    pub task_id: TaskId,
    /// Which assignment of the task this points at; an older one is only acknowledged.
    pub assignment: u32,
    pub agent: Agent,
    pub priority: Priority,
    pub trace_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LanesError {
    #[error("{failed} of {sent} lane messages were not taken: {reason}")]
    Partial { sent: usize, failed: usize, reason: String },
    /// These are refused for what they hold, now and the next time; all others were taken.
    #[error("{} lane messages are refused: {reason}", messages.len())]
    Refused { messages: Vec<LaneMessage>, reason: String },
    #[error("the lanes can't be reached: {reason}")]
    Down { reason: String },
}

/// The sending side of the priority lanes: one lane for each agent and priority.
#[async_trait]
pub trait Lanes: Send + Sync {
    /// Offers each message after its delay (zero: at once). An error, but for
    /// [`LanesError::Refused`], means that some may not have been taken: offer all again, a repeat
    /// is harmless.
    async fn offer(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError>;

    /// About how many messages wait in a lane.
    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError>;
}
