//! Serves events that arrive one at a time.

use anyhow::bail;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use serde_json::Value;
use serde_json::value::RawValue;
use watchbill_aws::queue;
use watchbill_core::handler::HandlerError;
use watchbill_wire::{portable_json, with_exact_numbers};

use super::serve;
use crate::config::Setup;

/// Handles events that arrive one at a time, and keeps those that can never be handled.
pub struct Events<F> {
    handler: F,
    client: aws_sdk_sqs::Client,
    dead: String,
}

impl<F> Events<F> {
    /// `dead`: the URL of the dead-letter queue.
    pub fn new(handler: F, client: aws_sdk_sqs::Client, dead: String) -> Self {
        Self { handler, client, dead }
    }

    /// An event that can never be handled goes to the dead letters unchanged. If it may succeed
    /// later, or can't be put there, this returns an error: Lambda retries, then the target's
    /// dead letters get it.
    pub async fn handle<E, Fut>(&self, text: &str) -> anyhow::Result<()>
    where
        E: for<'de> serde::Deserialize<'de>,
        F: Fn(E) -> Fut,
        Fut: Future<Output = Result<(), HandlerError>>,
    {
        // Parsed from the text, so that a number that would be rounded keeps its digits.
        let done = match serde_json::from_str::<E>(&with_exact_numbers(text)) {
            Ok(event) => (self.handler)(event).await,
            Err(error) => Err(HandlerError::Reject { reason: error.to_string() }),
        };
        match done {
            Err(HandlerError::Reject { reason }) => {
                tracing::error!("event rejected, sending it to the dead letters: {reason}");
                self.send_dead_letter(text).await
            }
            other => Ok(other?),
        }
    }

    async fn send_dead_letter(&self, text: &str) -> anyhow::Result<()> {
        let entry = SendMessageBatchRequestEntry::builder()
            .id("0")
            .message_body(portable_json(text.to_owned()))
            .build()
            .expect("id and body are set");
        let sent = queue::send(&self.client, &self.dead, vec![entry]).await;
        if sent.failed + sent.refused.len() > 0 {
            bail!("a rejected event can't be sent to the dead letters: {}", sent.reason);
        }
        Ok(())
    }
}

/// `dead`: the name of the dead-letter queue.
pub async fn serve_events<E, F, Fut>(setup: &Setup, dead: &str, handler: F) -> anyhow::Result<()>
where
    E: for<'de> serde::Deserialize<'de> + Send + 'static,
    F: Fn(E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let dead = setup.queues()?.url(dead);
    let events = std::sync::Arc::new(Events::new(handler, setup.sqs(), dead));
    // Parsed in two steps: an unreadable event becomes a dead letter instead of a retry loop.
    serve(move |event: Box<RawValue>, _context| {
        let events = events.clone();
        async move { events.handle(event.get()).await.map(|()| Value::Null) }
    })
    .await
}
