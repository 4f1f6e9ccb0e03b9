//! Serves the table's change feed (DynamoDB stream).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use futures_util::FutureExt as _;
use lambda_runtime::Context;
use serde::Serialize;
use tracing::Instrument as _;
use watchbill_aws::dynamo::{key_and_version, read_change};
use watchbill_core::handler::{HandlerError, panic_text};
use watchbill_core::ports::{Change, Clock, Key};

use super::{Metric, Unit, emit, serve, time_left};
use crate::config::Setup;

/// How many changes are handled together.
const CHUNK: usize = 250;
/// No chunk is started with less time left.
const MIN_TIME_LEFT: Duration = Duration::from_secs(5);
/// Retries up to this delay happen here: a redelivery takes longer and costs an invocation.
const RETRY_DELAY: Duration = Duration::from_secs(2);
const MAX_ATTEMPTS: u32 = 3;

/// Which messages Lambda should deliver again, or from which position of a stream on.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    pub batch_item_failures: Vec<ItemFailure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemFailure {
    pub item_identifier: String,
}

impl BatchAnswer {
    pub fn failed(&mut self, item_identifier: String) {
        self.batch_item_failures.push(ItemFailure { item_identifier });
    }
}

/// A change that can't be read, is rejected, or whose handling panics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub key: Key,
    /// `None` if it can't be read.
    pub version: Option<u64>,
}

#[async_trait]
pub trait StreamHandler: Send + Sync + 'static {
    /// Handles changes in their order, within the time left. An error means that all of these
    /// must be delivered again.
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError>;

    /// Keeps a left-out change visible for a later retry. An error means that it can't be kept,
    /// so all are delivered again. Nothing to do if the item itself returns, as a due item does.
    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        let _ = (left_out, reason);
        Ok(())
    }
}

/// The loop over the table's stream.
pub struct StreamConsumer<H> {
    handler: H,
    clock: Arc<dyn Clock>,
    stack: String,
}

impl<H: StreamHandler> StreamConsumer<H> {
    pub fn new(handler: H, clock: Arc<dyn Clock>, stack: impl Into<String>) -> Self {
        Self { handler, clock, stack: stack.into() }
    }

    /// Handles chunk by chunk. If a chunk can't be handled now, the response names its first
    /// record, and Lambda delivers that and all after it again. A change that can never be
    /// handled is kept by the handler, logged and counted, and the shard continues.
    pub async fn batch(&self, event: Event, context: &Context) -> BatchAnswer {
        let mut answer = BatchAnswer::default();
        for records in event.records.chunks(CHUNK) {
            let enough = time_left(context, self.clock.now()) > MIN_TIME_LEFT;
            if !enough || self.chunk(records, context).await.is_err() {
                answer.failed(records[0].change.sequence_number.clone().unwrap_or_default());
                break;
            }
        }
        answer
    }

    async fn chunk(&self, records: &[EventRecord], context: &Context) -> Result<(), ()> {
        let mut changes = Vec::with_capacity(records.len());
        for record in records {
            let read = catch_unwind(AssertUnwindSafe(|| read_change(record)))
                .map_err(|panic| format!("reading it panicked: {}", panic_text(&*panic)))
                .and_then(|read| read.map_err(|error| error.to_string()));
            match read {
                Ok(change) => changes.push(change),
                Err(reason) => {
                    let left_out = key_and_version(record);
                    let left_out = left_out.map(|(key, version)| LeftOut { key, version });
                    self.leave_out(left_out, &reason).await?;
                }
            }
        }
        // Rejected changes are halved, so that a bad change does not affect its neighbours.
        let mut open = vec![&changes[..]];
        while let Some(some) = open.pop() {
            if some.is_empty() {
                continue;
            }
            match self.patiently(some, context).await {
                Ok(()) => {}
                Err(HandlerError::Retry { reason, .. }) => {
                    tracing::warn!("{} changes will be delivered again: {reason}", some.len());
                    return Err(());
                }
                Err(HandlerError::Reject { reason }) if some.len() == 1 => {
                    let Change { key, version, .. } = &some[0];
                    let left_out = LeftOut { key: key.clone(), version: Some(*version) };
                    self.leave_out(Some(left_out), &reason).await?;
                }
                Err(HandlerError::Reject { .. }) => {
                    let (first, second) = some.split_at(some.len() / 2);
                    open.push(second);
                    open.push(first);
                }
            }
        }
        Ok(())
    }

    async fn patiently(&self, changes: &[Change], context: &Context) -> Result<(), HandlerError> {
        let mut attempts = 1;
        loop {
            let left = time_left(context, self.clock.now());
            match self.handled(changes, left).await {
                Err(HandlerError::Retry { after, .. })
                    if attempts < MAX_ATTEMPTS
                        && after <= RETRY_DELAY
                        && time_left(context, self.clock.now()) > MIN_TIME_LEFT + after =>
                {
                    attempts += 1;
                    self.clock.sleep(after).await;
                }
                other => return other,
            }
        }
    }

    /// A panic counts as a rejection: a retry would panic again and affect its neighbours.
    async fn handled(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        let handling = AssertUnwindSafe(self.handler.handle(changes, left)).catch_unwind();
        handling.await.unwrap_or_else(|panic| {
            let reason = format!("handling it panicked: {}", panic_text(&*panic));
            Err(HandlerError::Reject { reason })
        })
    }

    /// The item itself stays in the table, and an open one is due, so the sweeper re-checks it.
    async fn leave_out(&self, left_out: Option<LeftOut>, reason: &str) -> Result<(), ()> {
        let change = match &left_out {
            Some(LeftOut { key, version: Some(version) }) => format!("{key} version {version}"),
            Some(LeftOut { key, version: None }) => key.to_string(),
            None => String::new(),
        };
        if let Some(left_out) = left_out
            && let Err(error) = self.handler.keep(&left_out, reason).await
        {
            tracing::warn!(
                change,
                "changes will be delivered again: {reason}; it can't be kept: {error}"
            );
            return Err(());
        }
        tracing::error!(change, "a change is left out: {reason}");
        let metric = Metric { name: "ChangesLeftOut", value: 1.0, unit: Unit::Count };
        emit(&self.stack, self.clock.now(), &[metric]);
        Ok(())
    }
}

/// Serves the table's stream for as long as Lambda delivers batches of it.
pub async fn serve_feed(setup: &Setup, handler: impl StreamHandler) -> anyhow::Result<()> {
    let feed = Arc::new(StreamConsumer::new(handler, setup.clock.clone(), setup.stack()));
    serve(move |event: Event, context: Context| {
        let feed = feed.clone();
        let span = tracing::error_span!("batch", request = context.request_id);
        async move { Ok(feed.batch(event, &context).await) }.instrument(span)
    })
    .await
}
