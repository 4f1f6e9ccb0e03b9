//! The channels.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use watchbill_wire::peer::PeerError;

use super::{PeerMessage, RedisKeys};
use crate::address::Address;
use crate::batch::{Batch, Key, Kind, Lua, lua};
use crate::fault;

/// Messages that are kept ready for whoever listens.
const AHEAD: usize = 1_000;

static PUBLISH: Lua = lua!("publish");

fn cursor_of(name: &str) -> Key {
    Key::new(format!("watchbill:cursor:{name}"), Kind::Text)
}

impl RedisKeys {
    pub async fn cursor(&self, name: &str) -> Result<Option<String>, PeerError> {
        let mut batch = Batch::new();
        batch.plain("GET", &[&cursor_of(name)]);
        self.line.one(batch).await
    }

    pub async fn publish(
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

    pub async fn listen(&self, patterns: &[String]) -> Result<RedisListener, PeerError> {
        let (sink, messages) = self.line.dial().subscribe(patterns).await?.split();
        let options = self.line.options();
        let ear = Ear {
            address: self.line.address().clone(),
            sink,
            messages,
            idle: options.idle_within,
            answer: options.answer_within,
        };
        let (heard, incoming) = mpsc::channel(AHEAD);
        let task = tokio::spawn(ear.listen(heard));
        Ok(RedisListener { incoming, end: None, task })
    }
}

/// Listens in a task of its own, so that whoever waits for a message may give up at any time
/// and the questions in times of silence go on.
pub struct RedisListener {
    incoming: mpsc::Receiver<Result<PeerMessage, PeerError>>,
    end: Option<PeerError>,
    task: JoinHandle<()>,
}

impl RedisListener {
    pub async fn next(&mut self) -> Result<PeerMessage, PeerError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let heard = self.incoming.recv().await;
        let heard = heard.unwrap_or_else(|| Err(PeerError::Away("nobody listens".into())));
        if let Err(error) = &heard {
            self.end = Some(error.clone());
        }
        heard
    }
}

impl Drop for RedisListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Ear {
    address: Address,
    sink: PubSubSink,
    messages: PubSubStream,
    idle: Duration,
    answer: Duration,
}

impl Ear {
    /// Until the connection is lost, which is said last, or nobody wants to hear any more.
    async fn listen(mut self, heard: mpsc::Sender<Result<PeerMessage, PeerError>>) {
        loop {
            let message = self.message().await;
            let is_end = message.is_err();
            if heard.send(message).await.is_err() || is_end {
                return;
            }
        }
    }

    async fn message(&mut self) -> Result<PeerMessage, PeerError> {
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
