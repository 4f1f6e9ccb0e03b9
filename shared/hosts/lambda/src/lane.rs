//! Serves a lane's SQS batches.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use lambda_runtime::Context;
use tokio::task::JoinSet;
use tracing::Instrument as _;
use watchbill_aws::lanes::Queues;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Clock;

use super::{BatchAnswer, time_left};

/// A message whose handling panicked is delivered again after this.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(5);
/// SQS allows a visibility timeout of up to 12 hours; a lease ends long before this.
const MAX_VISIBILITY: Duration = Duration::from_secs(3600);

/// A parsed message. Task and trace are for the log.
pub struct Message<T> {
    pub form: T,
    pub task: String,
    pub trace: String,
}

/// Handles messages of one kind.
#[async_trait]
pub trait LaneHandler: Send + Sync + 'static {
    type Form: Send + 'static;

    /// A message that can't be parsed goes to the dead letters, with the reason in the log.
    fn parse(&self, body: &str) -> Result<Message<Self::Form>, String>;

    async fn handle(&self, form: Self::Form) -> Result<(), HandlerError>;
}

/// The loop over the messages of a lane's batches.
pub struct Lane<H> {
    handler: Arc<H>,
    client: aws_sdk_sqs::Client,
    queues: Queues,
    clock: Arc<dyn Clock>,
    /// The name of the dead-letter queue.
    dead: &'static str,
    /// No message is started with less time left.
    needs: Duration,
}

/// The outcome of a message.
enum Fate {
    Done,
    /// It is delivered again after this, or after its visibility timeout if that can't be
    /// changed.
    Back(Duration),
    Dead(String),
}

impl<H: LaneHandler> Lane<H> {
    pub fn new(
        handler: H,
        client: aws_sdk_sqs::Client,
        queues: Queues,
        clock: Arc<dyn Clock>,
        dead: &'static str,
        needs: Duration,
    ) -> Self {
        Self { handler: Arc::new(handler), client, queues, clock, dead, needs }
    }

    /// Handles all messages of a batch concurrently. The response names those that are not done.
    pub async fn batch(&self, event: SqsEvent, context: &Context) -> BatchAnswer {
        let mut running = JoinSet::new();
        let mut messages = Vec::with_capacity(event.records.len());
        for (place, message) in event.records.into_iter().enumerate() {
            if time_left(context, self.clock.now()) >= self.needs {
                // Each in its own tokio task, so that a panic affects one message only.
                let handling = handled(self.handler.clone(), &message, &context.request_id);
                running.spawn(async move { (place, handling.await) });
            }
            messages.push((message, None));
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((place, fate)) => messages[place].1 = Some(fate),
                Err(error) => tracing::error!("handling a message panicked: {error}"),
            }
        }
        let mut answer = BatchAnswer::default();
        for (message, fate) in messages {
            if !self.settle(&message, fate).await {
                answer.failed(message.message_id.unwrap_or_default());
            }
        }
        answer
    }

    /// Whether the message may be deleted.
    async fn settle(&self, message: &SqsMessage, fate: Option<Fate>) -> bool {
        match fate {
            Some(Fate::Done) => true,
            Some(Fate::Back(after)) => {
                self.delay(message, after).await;
                false
            }
            Some(Fate::Dead(reason)) => {
                let body = message.body.as_deref().unwrap_or_default();
                let id = message.message_id.as_deref().unwrap_or("without an id");
                tracing::error!(
                    message_id = id,
                    "message can't be handled, sending it to {}: {reason}",
                    self.dead
                );
                let url = self.queues.url(self.dead);
                // If the dead letter can't be sent, the message is delivered again and not lost.
                self.client.send_message().queue_url(url).message_body(body).send().await.is_ok()
            }
            // It panicked, or there was not enough time left to start it.
            None => {
                self.delay(message, PANIC_RETRY_DELAY).await;
                false
            }
        }
    }

    async fn delay(&self, message: &SqsMessage, after: Duration) {
        let (Some(receipt), Some(queue)) = (&message.receipt_handle, queue_of(message)) else {
            return;
        };
        let seconds = after.min(MAX_VISIBILITY).as_millis().div_ceil(1000) as i32;
        let call = self.client.change_message_visibility().queue_url(self.queues.url_of(queue));
        let call = call.receipt_handle(receipt).visibility_timeout(seconds);
        if let Err(error) = call.send().await {
            let error = watchbill_aws::explained(&error);
            tracing::debug!(
                "a message is delivered again only after its visibility timeout: {error}"
            );
        }
    }
}

/// The queue's full name, the last part of its ARN.
fn queue_of(message: &SqsMessage) -> Option<&str> {
    message.event_source_arn.as_deref()?.rsplit(':').next()
}

fn handled<H: LaneHandler>(
    handler: Arc<H>,
    message: &SqsMessage,
    request: &str,
) -> impl Future<Output = Fate> + Send + use<H> {
    let parsed = handler.parse(message.body.as_deref().unwrap_or_default());
    let (task, trace) = parsed.as_ref().map_or(("", ""), |m| (m.task.as_str(), m.trace.as_str()));
    // At the error level, so that all log lines within it have these fields at any log level.
    let span = tracing::error_span!("message", request, task, trace);
    let handling = async move {
        let form = match parsed {
            Ok(message) => message.form,
            Err(reason) => return Fate::Dead(reason),
        };
        match handler.handle(form).await {
            Ok(()) => Fate::Done,
            Err(HandlerError::Retry { after, reason }) => {
                tracing::info!("message is delivered again in {after:?}: {reason}");
                Fate::Back(after)
            }
            // A rejected message is kept for inspection.
            Err(HandlerError::Reject { reason }) => Fate::Dead(reason),
        }
    };
    handling.instrument(span)
}
