//! The channels.

use async_trait::async_trait;
use watchbill_domain::EventId;
use watchbill_wire::peer::{Heard, Listening, PeerChannels, PeerError, PeerListener, ToldEvent};

use super::RedisPeer;
use crate::forms::{event_for_peer, read_peer_event};
use crate::keys::{PeerMessage, RedisListener};

/// Before the type in a channel's name; with `*` behind it, the channel that gets a copy of all.
const EVENTS: &str = "orchestrator:events:";
/// Before a domain's name in that of its channel.
const NOTICES: &str = "notifications:";

/// An event for all who listen: on its own channel, and the copy on that of all.
pub(super) fn messages(event_type: &str, text: String) -> [PeerMessage; 2] {
    let own = PeerMessage { channel: format!("{EVENTS}{event_type}"), text: text.clone() };
    [own, PeerMessage { channel: format!("{EVENTS}*"), text }]
}

#[async_trait]
impl PeerChannels for RedisPeer {
    async fn cursor(&self, name: &str) -> Result<Option<String>, PeerError> {
        self.keys.cursor(name).await
    }

    async fn publish(
        &self,
        name: &str,
        from: Option<&EventId>,
        to: &EventId,
        events: &[ToldEvent<'_>],
    ) -> Result<Option<usize>, PeerError> {
        let told = events.iter().filter_map(|told| {
            let text = event_for_peer(told.event, told.task)?;
            Some(messages(told.event.event_type.as_str(), text))
        });
        let told: Vec<[PeerMessage; 2]> = told.collect();
        let from = from.map(EventId::as_str);
        let moved = self.keys.publish(name, from, to.as_str(), told.as_flattened()).await?;
        Ok(moved.then_some(told.len()))
    }

    async fn listen(&self, to: &Listening) -> Result<Box<dyn PeerListener>, PeerError> {
        let domains = to.domains.iter().map(|domain| format!("{NOTICES}{domain}"));
        let events = (to.types || to.events).then(|| format!("{EVENTS}*"));
        let patterns: Vec<String> = domains.chain(events).collect();
        let messages = self.keys.listen(&patterns).await?;
        Ok(Box::new(Ear { messages, events: to.events }))
    }
}

struct Ear {
    messages: RedisListener,
    /// What the events are is asked for too.
    events: bool,
}

#[async_trait]
impl PeerListener for Ear {
    async fn next(&mut self) -> Result<Heard, PeerError> {
        let PeerMessage { channel, text } = self.messages.next().await?;
        if channel.starts_with(NOTICES) {
            return Ok(Heard::Notice);
        }
        let event = match self.events {
            true => read_peer_event(&text),
            false => Ok(None),
        };
        let event_type = channel.rsplit(':').next().unwrap_or_default().to_owned();
        Ok(Heard::Event { channel, event_type, event })
    }
}
