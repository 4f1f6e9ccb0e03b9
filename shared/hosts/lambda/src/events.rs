use anyhow::bail;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use serde_json::Value;
use serde_json::value::RawValue;
use watchbill_aws::queue;
use watchbill_core::handler::HandlerError;
use watchbill_wire::{portable_json, with_exact_numbers};

use super::serve;
use crate::config::Setup;

/// Handles events that come one at a time, and keeps those that never can be.
pub struct Events<F> {
    handler: F,
    client: aws_sdk_sqs::Client,
    dead: String,
}

impl<F> Events<F> {
    /// `dead`: the URL of the queue for what can never be handled.
    pub fn new(handler: F, client: aws_sdk_sqs::Client, dead: String) -> Self {
        Self { handler, client, dead }
    }

    /// What can never be handled goes to the dead letters, as it came. What may be is answered
    /// with an error, after which Lambda and then the target's dead letters have it; so is what
    /// can't be put there.
    pub async fn handle<E, Fut>(&self, text: &str) -> anyhow::Result<()>
    where
        E: for<'de> serde::Deserialize<'de>,
        F: Fn(E) -> Fut,
        Fut: Future<Output = Result<(), HandlerError>>,
    {
        // From its text: a number that would be rounded is kept as its digits.
        let done = match serde_json::from_str::<E>(&with_exact_numbers(text)) {
            Ok(event) => (self.handler)(event).await,
            Err(error) => Err(HandlerError::Reject { reason: error.to_string() }),
        };
        match done {
            Err(HandlerError::Reject { reason }) => {
                tracing::error!("event rejected, it goes to the dead letters: {reason}");
                self.bury(text).await
            }
            other => Ok(other?),
        }
    }

    async fn bury(&self, text: &str) -> anyhow::Result<()> {
        let entry = SendMessageBatchRequestEntry::builder()
            .id("0")
            .message_body(portable_json(text.to_owned()))
            .build()
            .expect("id and body are set");
        let sent = queue::send(&self.client, &self.dead, vec![entry]).await;
        if sent.failed + sent.refused.len() > 0 {
            bail!("a rejected event can't be put to the dead letters: {}", sent.reason);
        }
        Ok(())
    }
}

/// Serves events that come one at a time. `dead`: name of the queue for what can never be handled.
pub async fn serve_events<E, F, Fut>(setup: &Setup, dead: &str, handler: F) -> anyhow::Result<()>
where
    E: for<'de> serde::Deserialize<'de> + Send + 'static,
    F: Fn(E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let dead = setup.queues()?.url(dead);
    let events = std::sync::Arc::new(Events::new(handler, setup.sqs(), dead));
    // Read in two steps, so that what can't be read is a dead letter and not a loop.
    serve(move |event: Box<RawValue>, _context| {
        let events = events.clone();
        async move { events.handle(event.get()).await.map(|()| Value::Null) }
    })
    .await
}
