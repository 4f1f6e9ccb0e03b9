//! Publishes and receives messages on the channels.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use watchbill_wire::legacy::LegacyError;

use super::{LegacyMessage, RedisKeys};
use crate::address::Address;
use crate::batch::{Batch, Key, Kind, Lua, lua};
use crate::error;

/// The most messages buffered for a listener.
const AHEAD: usize = 1_000;

static PUBLISH: Lua = lua!("publish");

fn cursor_of(name: &str) -> Key {
    Key::new(format!("watchbill:cursor:{name}"), Kind::Text)
}

impl RedisKeys {
    pub async fn cursor(&self, name: &str) -> Result<Option<String>, LegacyError> {
        let mut batch = Batch::new();
        batch.plain("GET", &[&cursor_of(name)]);
        self.line.one(batch).await
    }

    pub async fn publish(
        &self,
        name: &str,
        from: Option<&str>,
        to: &str,
        messages: &[LegacyMessage],
    ) -> Result<bool, LegacyError> {
        let mut batch = Batch::new();
        let step = batch.script(&PUBLISH, &[&cursor_of(name)]);
        step.arg(u8::from(from.is_some())).arg(from.unwrap_or_default()).arg(to);
        for message in messages {
            step.arg(&message.channel).arg(&message.text);
        }
        self.line.one(batch).await
    }

    pub async fn listen(&self, patterns: &[String]) -> Result<RedisListener, LegacyError> {
        let (sink, messages) = self.line.dial().subscribe(patterns).await?.split();
        let options = self.line.options();
        let connection = ChannelConnection {
            address: self.line.address().clone(),
            sink,
            messages,
            idle: options.idle_within,
            answer: options.answer_within,
        };
        let (sender, incoming) = mpsc::channel(AHEAD);
        let task = tokio::spawn(connection.listen(sender));
        Ok(RedisListener { incoming, end: None, task })
    }
}

/// Listens in a separate task, so that a caller may stop waiting at any time and the pings
/// during silence continue.
pub struct RedisListener {
    incoming: mpsc::Receiver<Result<LegacyMessage, LegacyError>>,
    end: Option<LegacyError>,
    task: JoinHandle<()>,
}

impl RedisListener {
    pub async fn next(&mut self) -> Result<LegacyMessage, LegacyError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let message = self.incoming.recv().await;
        let message =
            message.unwrap_or_else(|| Err(LegacyError::Away("the listener has stopped".into())));
        if let Err(error) = &message {
            self.end = Some(error.clone());
        }
        message
    }
}

impl Drop for RedisListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct ChannelConnection {
    address: Address,
    sink: PubSubSink,
    messages: PubSubStream,
    idle: Duration,
    answer: Duration,
}

impl ChannelConnection {
    /// Runs until the connection is lost, which is reported last, or the receiver is dropped.
    async fn listen(mut self, sender: mpsc::Sender<Result<LegacyMessage, LegacyError>>) {
        loop {
            let message = self.message().await;
            let is_end = message.is_err();
            if sender.send(message).await.is_err() || is_end {
                return;
            }
        }
    }

    async fn message(&mut self) -> Result<LegacyMessage, LegacyError> {
        loop {
            match timeout(self.idle, self.messages.next()).await {
                Ok(Some(message)) => {
                    return Ok(LegacyMessage {
                        channel: message.get_channel_name().to_owned(),
                        text: String::from_utf8_lossy(message.get_payload_bytes()).into_owned(),
                    });
                }
                Ok(None) => {
                    let text =
                        format!("{} can't be reached: it closed the connection", self.address);
                    return Err(LegacyError::Away(text));
                }
                // A silently lost connection looks like one without messages.
                Err(_) => match timeout(self.answer, self.sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error::lost(&self.address, error)),
                    Err(_) => return Err(error::late(&self.address)),
                },
            }
        }
    }
}
