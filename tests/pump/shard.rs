use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use lambda_runtime::Context;
use watchbill_core::ports::Clock;
use watchbill_lambda::{BatchAnswer, Feed, FeedHandler};

use super::calls::Calls;

/// A shard of a stream, read by one function at a time.
pub struct Shard {
    records: Vec<EventRecord>,
    next: usize,
    batch: usize,
    /// How often a function was invoked: what never ends would show here.
    pub invoked: usize,
}

/// A function has so long.
const TIME_OUT: u64 = 30_000;
/// More invocations than records can need, whatever goes wrong in these tests.
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

    /// Some of what was read is read again.
    pub fn back(&mut self, by: usize) {
        self.next = self.next.saturating_sub(by);
    }

    /// Hands over one batch, as Lambda does: an answer that names a record has that one and
    /// all after it come again, an end without an answer the whole batch. False: the function
    /// ended at one of its calls.
    pub async fn hand_over<H: FeedHandler>(
        &mut self,
        feed: &Feed<H>,
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

/// How many records of a batch are done with.
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
