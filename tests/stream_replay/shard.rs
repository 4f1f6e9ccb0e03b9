//! A stream's shard, with Lambda's rules for delivering batches.

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use lambda_runtime::Context;
use watchbill_core::ports::Clock;
use watchbill_lambda::{BatchAnswer, StreamConsumer, StreamHandler};

use super::calls::Calls;

/// A shard of a stream, read by one function at a time.
pub struct Shard {
    records: Vec<EventRecord>,
    next: usize,
    batch: usize,
    /// How often a function was invoked. An endless loop would show here.
    pub invoked: usize,
}

/// The function's timeout in milliseconds.
const TIME_OUT: u64 = 30_000;
/// More invocations than the records can need, whatever fails in these tests.
const WEDGED: usize = 20_000;

impl Shard {
    pub fn new(records: Vec<EventRecord>, batch: usize) -> Self {
        Self { records, next: 0, batch, invoked: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.next >= self.records.len()
    }

    pub fn left(&self) -> usize {
        self.records.len() - self.next
    }

    /// Delivers the last `by` records again.
    pub fn back(&mut self, by: usize) {
        self.next = self.next.saturating_sub(by);
    }

    /// Delivers one batch as Lambda does. After an answer that names a record, that one and all
    /// later ones are delivered again; after an end without an answer, the whole batch is.
    /// Returns false if the function ended at one of its calls.
    pub async fn hand_over<H: StreamHandler>(
        &mut self,
        feed: &StreamConsumer<H>,
        clock: &dyn Clock,
        calls: &Calls,
    ) -> bool {
        self.invoked += 1;
        assert!(self.invoked < WEDGED, "the shard is wedged at record {}", self.next);
        let end = self.records.len().min(self.next + self.batch);
        let records = self.records[self.next..end].to_vec();
        let mut event = Event::default();
        event.records.clone_from(&records);
        let mut context = Context::default();
        context.deadline = clock.now().millis() as u64 + TIME_OUT;
        tokio::select! {
            biased;
            answer = feed.batch(event, &context) => {
                self.next += gone_on(&records, &answer);
                true
            }
            () = calls.ended() => false,
        }
    }
}

/// How many records of a batch are processed.
fn gone_on(records: &[EventRecord], answer: &BatchAnswer) -> usize {
    let first = answer.batch_item_failures.first();
    first.map_or(records.len(), |failed| {
        let named = |record: &EventRecord| {
            record.change.sequence_number.as_deref() == Some(&*failed.item_identifier)
        };
        // An answer that names nothing of the batch counts as a failure of all.
        records.iter().position(named).unwrap_or(0)
    })
}
