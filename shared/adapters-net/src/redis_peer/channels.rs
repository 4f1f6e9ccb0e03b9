//! The channels.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::time::timeout;
use watchbill_core::ports::{PeerChannels, PeerError, PeerListener, PeerMessage};

use super::RedisPeer;
use super::address::Address;
use super::batch::{Batch, Key, Kind, Lua, lua};
use super::fault;

static PUBLISH: Lua = lua!("publish");

fn cursor_of(name: &str) -> Key {
    Key::new(format!("watchbill:cursor:{name}"), Kind::Text)
}

#[async_trait]
impl PeerChannels for RedisPeer {
    async fn cursor(&self, name: &str) -> Result<Option<String>, PeerError> {
        let mut batch = Batch::new();
        batch.plain("GET", &[&cursor_of(name)]);
        self.line.one(batch).await
    }

    async fn publish(
        &self,
        name: &str,
        from: Option<&str>,
        to: &str,
        messages: &[PeerMessage],
    ) -> Result<bool, PeerError> {
        let mut batch = Batch::new();
        let step = batch.script(&PUBLISH, &[&cursor_of(name)]);
        step.arg(u8::from(from.is_some())).arg(from.unwrap_or_default()).arg(to);
        for message in messages {
            step.arg(&message.channel).arg(&message.text);
        }
        self.line.one(batch).await
    }

    async fn listen(&self, patterns: &[String]) -> Result<Box<dyn PeerListener>, PeerError> {
        let (sink, messages) = self.line.subscribe(patterns).await?.split();
        let options = self.line.options();
        Ok(Box::new(RedisListener {
            address: self.line.address().clone(),
            sink,
            messages,
            idle: options.idle_within,
            answer: options.answer_within,
        }))
    }
}

struct RedisListener {
    address: Address,
    sink: PubSubSink,
    messages: PubSubStream,
    idle: Duration,
    answer: Duration,
}

#[async_trait]
impl PeerListener for RedisListener {
    async fn next(&mut self) -> Result<PeerMessage, PeerError> {
        loop {
            match timeout(self.idle, self.messages.next()).await {
                Ok(Some(message)) => {
                    return Ok(PeerMessage {
                        channel: message.get_channel_name().to_owned(),
                        text: String::from_utf8_lossy(message.get_payload_bytes()).into_owned(),
                    });
                }
                Ok(None) => {
                    let text = format!("{} can't be reached: it hung up", self.address);
                    return Err(PeerError::Away(text));
                }
                // A connection that died without a word is as silent as one on which nobody
                // speaks.
                Err(_) => match timeout(self.answer, self.sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(fault::lost(&self.address, error)),
                    Err(_) => return Err(fault::late(&self.address)),
                },
            }
        }
    }
}
