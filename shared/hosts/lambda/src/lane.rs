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

/// A message whose handling broke off comes back after this.
const AFTER_PANIC: Duration = Duration::from_secs(5);
/// The longest visibility that SQS knows is 12 hours; a lease ends long before.
const MOST_BACK: Duration = Duration::from_secs(3600);

/// A message that is parsed: what it is about, for the log.
pub struct Message<T> {
    pub form: T,
    pub task: String,
    pub trace: String,
}

/// Handles messages of one kind.
#[async_trait]
pub trait LaneHandler: Send + Sync + 'static {
    type Form: Send + 'static;

    /// What can't be parsed goes to the dead letters, with the reason in the log.
    fn parse(&self, body: &str) -> Result<Message<Self::Form>, String>;

    async fn handle(&self, form: Self::Form) -> Result<(), HandlerError>;
}

/// The loop over the messages of a lane's batches.
pub struct Lane<H> {
    handler: Arc<H>,
    client: aws_sdk_sqs::Client,
    queues: Queues,
    clock: Arc<dyn Clock>,
    /// Name of the queue for what can never be handled.
    dead: &'static str,
    /// A message is not begun with less time left.
    needs: Duration,
}

/// What becomes of a message.
enum Fate {
    Done,
    /// It comes back after this; by itself, if that can't be said to the queue.
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

    /// All messages of a batch at once. Those that are not done are named in the answer.
    pub async fn batch(&self, event: SqsEvent, context: &Context) -> BatchAnswer {
        let mut running = JoinSet::new();
        let mut messages = Vec::with_capacity(event.records.len());
        for (place, message) in event.records.into_iter().enumerate() {
            if time_left(context, self.clock.now()) >= self.needs {
                // In a task of its own: a panic costs one message.
                let handling = handled(self.handler.clone(), &message, &context.request_id);
                running.spawn(async move { (place, handling.await) });
            }
            messages.push((message, None));
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((place, fate)) => messages[place].1 = Some(fate),
                Err(error) => tracing::error!("handling a message broke off: {error}"),
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
                self.come_back(message, after).await;
                false
            }
            Some(Fate::Dead(reason)) => {
                let body = message.body.as_deref().unwrap_or_default();
                let id = message.message_id.as_deref().unwrap_or("without an id");
                tracing::error!(
                    "message {id} can't be handled and goes to {}: {reason}",
                    self.dead
                );
                let url = self.queues.url(self.dead);
                // If it can't be put there it comes back, and is not lost.
                self.client.send_message().queue_url(url).message_body(body).send().await.is_ok()
            }
            // It panicked, or there was no time left to begin it.
            None => {
                self.come_back(message, AFTER_PANIC).await;
                false
            }
        }
    }

    async fn come_back(&self, message: &SqsMessage, after: Duration) {
        let (Some(receipt), Some(queue)) = (&message.receipt_handle, queue_of(message)) else {
            return;
        };
        let seconds = after.min(MOST_BACK).as_millis().div_ceil(1000) as i32;
        let call = self.client.change_message_visibility().queue_url(self.queues.url_of(queue));
        let call = call.receipt_handle(receipt).visibility_timeout(seconds);
        if let Err(error) = call.send().await {
            let error = watchbill_aws::explained(&error);
            tracing::debug!("a message comes back at the end of its visibility: {error}");
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
    // Of the highest level, so that what is logged below it has these fields at any.
    let span = tracing::error_span!("message", request, task, trace);
    let handling = async move {
        let form = match parsed {
            Ok(message) => message.form,
            Err(reason) => return Fate::Dead(reason),
        };
        match handler.handle(form).await {
            Ok(()) => Fate::Done,
            Err(HandlerError::Retry { after, reason }) => {
                tracing::info!("message comes back in {after:?}: {reason}");
                Fate::Back(after)
            }
            // Nothing is thrown away that someone may want to look at.
            Err(HandlerError::Reject { reason }) => Fate::Dead(reason),
        }
    };
    handling.instrument(span)
}
