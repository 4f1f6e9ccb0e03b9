//! The port's channels: publishing and listening.

use async_trait::async_trait;
use watchbill_domain::EventId;
use watchbill_wire::legacy::{
    ChannelMessage, LegacyChannels, LegacyError, LegacyListener, Listening, OutgoingEvent,
};

use super::RedisLegacyQueue;
use crate::forms::{event_for_peer, read_peer_event};
use crate::keys::{LegacyMessage, RedisListener};

/// Prefix of the event type in a channel's name; with `*` after it, the channel with copies of
/// all events.
const EVENTS: &str = "orchestrator:events:";
/// Prefix of a domain's name in its channel's name.
const NOTICES: &str = "notifications:";

/// An event for its own channel, and its copy for the channel of all.
pub(super) fn messages(event_type: &str, text: String) -> [LegacyMessage; 2] {
    let own = LegacyMessage { channel: format!("{EVENTS}{event_type}"), text: text.clone() };
    [own, LegacyMessage { channel: format!("{EVENTS}*"), text }]
}

#[async_trait]
impl LegacyChannels for RedisLegacyQueue {
    async fn cursor(&self, name: &str) -> Result<Option<String>, LegacyError> {
        self.keys.cursor(name).await
    }

    async fn publish(
        &self,
        name: &str,
        from: Option<&EventId>,
        to: &EventId,
        events: &[OutgoingEvent<'_>],
    ) -> Result<Option<usize>, LegacyError> {
        let outgoing = events.iter().filter_map(|outgoing| {
            let text = event_for_peer(outgoing.event, outgoing.task)?;
            Some(messages(outgoing.event.event_type.as_str(), text))
        });
        let outgoing: Vec<[LegacyMessage; 2]> = outgoing.collect();
        let from = from.map(EventId::as_str);
        let moved = self.keys.publish(name, from, to.as_str(), outgoing.as_flattened()).await?;
        Ok(moved.then_some(outgoing.len()))
    }

    async fn listen(&self, to: &Listening) -> Result<Box<dyn LegacyListener>, LegacyError> {
        let domains = to.domains.iter().map(|domain| format!("{NOTICES}{domain}"));
        let events = (to.types || to.events).then(|| format!("{EVENTS}*"));
        let patterns: Vec<String> = domains.chain(events).collect();
        let messages = self.keys.listen(&patterns).await?;
        Ok(Box::new(ChannelListener { messages, events: to.events }))
    }
}

struct ChannelListener {
    messages: RedisListener,
    /// Whether the listener wants the events themselves.
    events: bool,
}

#[async_trait]
impl LegacyListener for ChannelListener {
    async fn next(&mut self) -> Result<ChannelMessage, LegacyError> {
        let LegacyMessage { channel, text } = self.messages.next().await?;
        if channel.starts_with(NOTICES) {
            return Ok(ChannelMessage::Notice);
        }
        let event = match self.events {
            true => read_peer_event(&text),
            false => Ok(None),
        };
        let event_type = channel.rsplit(':').next().unwrap_or_default().to_owned();
        Ok(ChannelMessage::Event { channel, event_type, event })
    }
}
