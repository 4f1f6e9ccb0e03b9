//! The port to a legacy queue: foreign programs that keep their tasks, events and results in a
//! server of their own, next to which this project works. That data is theirs: it is changed
//! only as their programs expect, and never assumed to exist, because the server may lose it.
//!
//! Imported values arrive parsed: a task, an event, or the reason why it can't be imported.
//! Exported values are tasks, events or approvals as clients of the API see them; the adapter
//! converts them to the legacy format. `data` and `message` hold the stored bytes unchanged and
//! are only passed back.
//!
//! - `queue`: the tasks that the legacy programs share. `task`: one of them, parsed.
//! - `channels`: their events. `domains`: a domain's tasks and results, and its agent.
//! - `mirror`: what they see of approvals and cost. `ids`: their ids and ours.
//!
//! Every call may be repeated: after an error it is unknown whether the call was carried out,
//! and a second call changes nothing.

mod channels;
mod domains;
mod ids;
mod mirror;
mod queue;
mod task;

use async_trait::async_trait;

pub use channels::{
    ChannelMessage, LegacyChannels, LegacyEvent, LegacyListener, Listening, OutgoingEvent,
};
pub use domains::{
    DomainAgent, DomainMessage, DomainResult, DomainTask, LegacyDomains, LegacyRegistry,
    RejectedMessage,
};
pub use ids::{LEGACY_ID, legacy_id, legacy_ids, mark};
pub use mirror::{Cost, CostOf, LegacyMirror};
pub use queue::{
    ExportedTask, LegacyTask, LegacyTasks, Origin, Queued, RejectedTask, WorkerUpdate, WriteBack,
    WriteOutcome,
};
pub use task::{Addressee, Assignee, ImportError, LegacyTaskView, ReadTask};

/// Why a call was not carried out. The text is for people: what is wrong, with which key, and
/// what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyError {
    /// The server is unreachable or too slow. It may recover in a moment.
    #[error("{0}")]
    Away(String),
    /// The server is reachable, but refuses until someone changes something: a password, a
    /// role, memory.
    #[error("{0}")]
    Refused(String),
    /// A key has another type than these programs write, so it belongs to another program.
    #[error("{0}")]
    Foreign(String),
}

/// The health of the connection.
#[async_trait]
pub trait LegacyHealth: Send + Sync {
    async fn ping(&self) -> Result<(), LegacyError>;

    /// Number of queue members with invalid ids that [`LegacyTasks::peek`] has rejected since the
    /// start.
    fn moved_aside(&self) -> u64;
}

/// The whole port to a legacy queue.
pub trait LegacyQueue:
    LegacyTasks + LegacyChannels + LegacyDomains + LegacyRegistry + LegacyMirror + LegacyHealth
{
}

impl<T> LegacyQueue for T where
    T: LegacyTasks + LegacyChannels + LegacyDomains + LegacyRegistry + LegacyMirror + LegacyHealth
{
}
