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

/// Changes handled together.
const CHUNK: usize = 250;
/// A chunk is not begun with less time left.
const LEAST: Duration = Duration::from_secs(5);
/// A fault that should pass soon is waited for here: coming back by the stream takes longer
/// and costs an invocation.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;

/// Which messages, or from which place in a stream on, Lambda should hand over again.
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

/// A change that can't be read, that is rejected, or over which handling breaks off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub key: Key,
    /// Where it can be read.
    pub version: Option<u64>,
}

#[async_trait]
pub trait FeedHandler: Send + Sync + 'static {
    /// Handles changes in their order, within the time that is left. An error means: all of
    /// these again.
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError>;

    /// Keeps what is left out where it is seen and taken up again. An error means: all again, as
    /// it can't even be kept. Nothing need be done where the item itself brings it back, as one
    /// that is due does.
    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        let _ = (left_out, reason);
        Ok(())
    }
}

/// The loop over the table's stream.
pub struct Feed<H> {
    handler: H,
    clock: Arc<dyn Clock>,
    stack: String,
}

impl<H: FeedHandler> Feed<H> {
    pub fn new(handler: H, clock: Arc<dyn Clock>, stack: impl Into<String>) -> Self {
        Self { handler, clock, stack: stack.into() }
    }

    /// Chunk by chunk. At the first that can't be handled now the answer names its first
    /// record: Lambda comes back with that one and all after it. What never can be handled is
    /// left out: kept by the handler, logged and counted; and the shard goes on.
    pub async fn batch(&self, event: Event, context: &Context) -> BatchAnswer {
        let mut answer = BatchAnswer::default();
        for records in event.records.chunks(CHUNK) {
            let enough = time_left(context, self.clock.now()) > LEAST;
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
                .map_err(|panic| format!("reading it broke off: {}", panic_text(&*panic)))
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
        // Halves of what was rejected, so that one change does not take its neighbours along.
        let mut open = vec![&changes[..]];
        while let Some(some) = open.pop() {
            if some.is_empty() {
                continue;
            }
            match self.patiently(some, context).await {
                Ok(()) => {}
                Err(HandlerError::Retry { reason, .. }) => {
                    tracing::warn!("{} changes are to come again: {reason}", some.len());
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
        let mut tries = 1;
        loop {
            let left = time_left(context, self.clock.now());
            match self.handled(changes, left).await {
                Err(HandlerError::Retry { after, .. })
                    if tries < TRIES
                        && after <= PATIENCE
                        && time_left(context, self.clock.now()) > LEAST + after =>
                {
                    tries += 1;
                    self.clock.sleep(after).await;
                }
                other => return other,
            }
        }
    }

    /// One that breaks off is rejected: it would break off again, and take its neighbours along.
    async fn handled(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        let handling = AssertUnwindSafe(self.handler.handle(changes, left)).catch_unwind();
        handling.await.unwrap_or_else(|panic| {
            let reason = format!("handling it broke off: {}", panic_text(&*panic));
            Err(HandlerError::Reject { reason })
        })
    }

    /// The item itself stays in the table, and an open one is due: the sweeper looks at it.
    async fn leave_out(&self, left_out: Option<LeftOut>, reason: &str) -> Result<(), ()> {
        let of = match &left_out {
            Some(LeftOut { key, version: Some(version) }) => format!("{key} version {version}: "),
            Some(LeftOut { key, version: None }) => format!("{key}: "),
            None => String::new(),
        };
        if let Some(left_out) = left_out
            && let Err(error) = self.handler.keep(&left_out, reason).await
        {
            tracing::warn!("changes are to come again, {of}{reason}; it can't be kept: {error}");
            return Err(());
        }
        tracing::error!("a change is left out: {of}{reason}");
        let metric = Metric { name: "ChangesLeftOut", value: 1.0, unit: Unit::Count };
        emit(&self.stack, self.clock.now(), &[metric]);
        Ok(())
    }
}

/// Serves the table's stream for as long as Lambda hands over batches of it.
pub async fn serve_feed(setup: &Setup, handler: impl FeedHandler) -> anyhow::Result<()> {
    let feed = Arc::new(Feed::new(handler, setup.clock.clone(), setup.stack()));
    serve(move |event: Event, context: Context| {
        let feed = feed.clone();
        let span = tracing::error_span!("batch", request = context.request_id);
        async move { Ok(feed.batch(event, &context).await) }.instrument(span)
    })
    .await
}
