//! The event channels of the legacy programs.

use async_trait::async_trait;
use watchbill_domain::EventId;

use super::LegacyError;
use crate::{EventView, PublishEvent, TaskView};

/// An event received from the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyEvent {
    pub id: EventId,
    /// Its task id is the likely id in our backend; see `peer_task`.
    pub event: PublishEvent,
    /// The task id as the event names it.
    pub peer_task: Option<String>,
    pub hops: u8,
}

/// An event to publish to all listeners.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingEvent<'a> {
    pub event: &'a EventView,
    /// The task that the event is about, if known.
    pub task: Option<&'a TaskView>,
}

/// What to listen for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// That an event happened, and of which type.
    pub types: bool,
    /// Also the events themselves.
    pub events: bool,
    /// Domains for which to be notified when a task enters their list.
    pub domains: Vec<String>,
}

/// A message from the channels.
#[derive(Clone, Debug, PartialEq)]
pub enum ChannelMessage {
    /// A task was put into a domain's list.
    Notice,
    Event {
        /// For people.
        channel: String,
        event_type: String,
        /// The event, or why it can't be read. `None` for our own, and if events are not
        /// listened for.
        event: Result<Option<LegacyEvent>, String>,
    },
}

/// The event channels of the legacy programs.
#[async_trait]
pub trait LegacyChannels: Send + Sync {
    /// The position up to which the writer with this name has published.
    async fn cursor(&self, name: &str) -> Result<Option<String>, LegacyError>;

    /// Publishes all events except those that came from the legacy programs, and moves the
    /// cursor, in one transaction, if the cursor is still at `from`. Returns the number
    /// published. Returns `None`, and publishes nothing, if another writer or an earlier
    /// attempt of ours has moved the cursor.
    async fn publish(
        &self,
        name: &str,
        from: Option<&EventId>,
        to: &EventId,
        events: &[OutgoingEvent<'_>],
    ) -> Result<Option<usize>, LegacyError>;

    /// Messages that are sent while no one listens are missed.
    async fn listen(&self, to: &Listening) -> Result<Box<dyn LegacyListener>, LegacyError>;
}

#[async_trait]
pub trait LegacyListener: Send {
    /// Cancel safe: a dropped wait loses no message.
    async fn next(&mut self) -> Result<ChannelMessage, LegacyError>;
}
