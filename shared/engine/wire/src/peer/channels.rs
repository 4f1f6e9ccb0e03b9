//! The channels on which a peer's programs tell each other what happens.

use async_trait::async_trait;
use watchbill_domain::EventId;

use super::PeerError;
use crate::{EventView, PublishEvent, TaskView};

/// An event off the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerEvent {
    pub id: EventId,
    /// Of the task that it is about the id that is likely here: see `peer_task`.
    pub event: PublishEvent,
    /// The id of its task as it was said.
    pub peer_task: Option<String>,
    pub hops: u8,
}

/// An event for all who listen.
#[derive(Clone, Copy, Debug)]
pub struct ToldEvent<'a> {
    pub event: &'a EventView,
    /// The task that it is about, as far as it is known.
    pub task: Option<&'a TaskView>,
}

/// What is listened for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// That something happened, and of which type.
    pub types: bool,
    /// And what it was.
    pub events: bool,
    /// That a task was put into the list of one of these domains.
    pub domains: Vec<String>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A task was put into a domain's list.
    Notice,
    Event {
        /// For people.
        channel: String,
        event_type: String,
        /// The event, or why it is none. Nothing for our own, and where events are not
        /// listened for.
        event: Result<Option<PeerEvent>, String>,
    },
}

/// The channels on which a peer's programs tell each other what happens.
#[async_trait]
pub trait PeerChannels: Send + Sync {
    /// How far whoever writes under this name has come.
    async fn cursor(&self, name: &str) -> Result<Option<String>, PeerError>;

    /// Publishes all of them but those that came from there, and moves the cursor, in one step,
    /// if the cursor still stands at `from`. Answers how many; nothing where the cursor does not
    /// stand there: another was faster, or an earlier try of ours that seemed to fail, and
    /// nothing was published then.
    async fn publish(
        &self,
        name: &str,
        from: Option<&EventId>,
        to: &EventId,
        events: &[ToldEvent<'_>],
    ) -> Result<Option<usize>, PeerError>;

    /// Whoever does not listen misses what is said.
    async fn listen(&self, to: &Listening) -> Result<Box<dyn PeerListener>, PeerError>;
}

#[async_trait]
pub trait PeerListener: Send {
    /// The wait may be given up at any time: nothing is lost with it.
    async fn next(&mut self) -> Result<Heard, PeerError>;
}
