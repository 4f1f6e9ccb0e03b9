//! The port to a peer: programs of others that keep their tasks, events and results in a server
//! of their own, beside which this project works. What stands there is theirs: it is changed
//! only as their programs expect it, and never taken for granted, because the server may lose it.
//!
//! What comes over is read already: a task, an event, or why it can't be taken over. What goes
//! there is a task, an event or an approval as clients of the API see it; the adapter writes it
//! in the peer's form. `data` and `message` are what stands there, byte for byte: they are only
//! handed back.
//!
//! - `queue`: the tasks that a peer's programs share. `task`: one of them, read.
//! - `channels`: their events. `domains`: a domain's tasks and results, and its agent.
//! - `mirror`: what they are shown of approvals and cost. `ids`: their ids, there and here.
//!
//! Every call may be made again: after an error nobody knows whether it was carried out, and
//! each is built so that a second time changes nothing.

mod channels;
mod domains;
mod ids;
mod mirror;
mod queue;
mod task;

use async_trait::async_trait;

pub use channels::{Heard, Listening, PeerChannels, PeerEvent, PeerListener, ToldEvent};
pub use domains::{
    DomainAgent, DomainMessage, DomainResult, DomainTask, PeerDomains, PeerRegistry,
    RejectedMessage,
};
pub use ids::{PEER_ID, id_of_peer, ids_of_peer, mark};
pub use mirror::{Cost, CostOf, PeerMirror};
pub use queue::{
    FedTask, Origin, PeerQueue, PeerTask, Queued, RejectedTask, WorkerWord, WriteBack, Wrote,
};
pub use task::{Addressee, Assignee, PeerTaskView, ReadTask, Unreadable};

/// Why a call on a peer was not carried out. The text is for people: what was wrong, with
/// which key, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not there, or too slow: it may be there in a moment.
    #[error("{0}")]
    Away(String),
    /// It is there, and refuses until someone changes something: a password, a role, memory.
    #[error("{0}")]
    Refused(String),
    /// A key is of another kind than these programs write: it is someone else's.
    #[error("{0}")]
    Foreign(String),
}

/// How the connection stands.
#[async_trait]
pub trait PeerHealth: Send + Sync {
    async fn ping(&self) -> Result<(), PeerError>;

    /// Members of the queue whose ids were none, and which [`PeerQueue::peek`] itself moved to
    /// the rejected, since the start.
    fn moved_aside(&self) -> u64;
}

/// A peer with all it can.
pub trait Peer:
    PeerQueue + PeerChannels + PeerDomains + PeerRegistry + PeerMirror + PeerHealth
{
}

impl<T> Peer for T where
    T: PeerQueue + PeerChannels + PeerDomains + PeerRegistry + PeerMirror + PeerHealth
{
}
