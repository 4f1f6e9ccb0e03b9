//! Lambda's part: delivers batches again and again until they are processed.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use serde_json::Value;
use watchbill_core::ports::Entropy as _;
use watchbill_core::service::Core;
use watchbill_domain::derived_uuid;
use watchbill_lambda::{AgentLane, BatchAnswer, Lane, StreamConsumer, StreamHandler};
use watchbill_runtime::run::TaskAgent;
use watchbill_testkit::SeededEntropy;

use super::emulator::{Stack, Stream, text};
use super::world::{World, context};

/// How long to wait before an empty stream is read again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Records per batch, as in the template.
const BATCH: usize = 1_000;
/// How many of a hundred invocations end in the middle, as when a function times out or its
/// machine is lost. Lanes have fewer, because their messages come back half a minute later.
const FEED_CRASHES: u64 = 20;
const LANE_CRASHES: u64 = 3;

/// Runs `work`, but in `crashes` of a hundred cases stops it after up to 150 ms.
async fn unless_it_ends<T>(
    dice: &SeededEntropy,
    crashes: u64,
    work: impl Future<Output = T>,
) -> Option<T> {
    if dice.next_u64() % 100 >= crashes {
        return Some(work.await);
    }
    let at = Duration::from_millis(dice.next_u64() % 150);
    tokio::time::timeout(at, work).await.ok()
}

/// The kinds that the recorder's event source mapping lets through, except the pulse, which no
/// scenario writes. Without `parked_tenant` no parked change would ever be replayed.
pub const RECORDED: &[&str] = &["task", "event", "record", "parked_tenant"];

#[test]
fn the_recorders_filter_is_that_of_the_template() {
    let kinds: Vec<_> = RECORDED.iter().chain(&["pulse"]).collect();
    let pattern = serde_json::json!({ "dynamodb": { "NewImage": { "k": { "S": kinds } } } });
    let template = crate::repo::text(std::path::Path::new("template.yaml"));
    assert!(template.contains(&format!("Pattern: '{pattern}'")), "template.yaml has no {pattern}");
}

/// The filter of the stream's event source mapping.
pub fn is_of_kind(record: &Value, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| record["dynamodb"]["NewImage"]["k"]["S"] == *kind)
}

pub fn as_event(records: &[Value]) -> Event {
    let record = |record: &Value| -> EventRecord {
        serde_json::from_value(record.clone()).expect("the stream's records have Lambda's form")
    };
    let mut event = Event::default();
    event.records = records.iter().map(record).collect();
    event
}

/// How many of the records, from the first one on, are processed.
pub fn done_with(answer: &BatchAnswer, records: &[Value]) -> usize {
    let place = |record: &Value| {
        let number = text(&record["dynamodb"]["SequenceNumber"]);
        answer.batch_item_failures.iter().any(|failure| failure.item_identifier == number)
    };
    records.iter().position(place).unwrap_or(records.len())
}

/// One of several shards. The emulator keeps one shard per stream, which is split here as
/// DynamoDB splits them: each shard has a range of the keys' hashes.
#[derive(Clone, Copy)]
pub struct Part {
    pub n: usize,
    pub of: usize,
}

impl Part {
    pub const WHOLE: Self = Self { n: 0, of: 1 };

    fn holds(self, record: &Value) -> bool {
        let first = derived_uuid(&["shard", text(&record["dynamodb"]["Keys"]["pk"]["S"])]);
        usize::from(first.as_bytes()[0]) * self.of / 256 == self.n
    }
}

/// Follows a shard of the stream endlessly. `make` starts an instance.
pub async fn follow<H: StreamHandler>(
    world: Arc<World>,
    part: Part,
    kinds: &'static [&'static str],
    make: impl Fn(&World) -> StreamConsumer<H>,
    seed: u64,
) {
    let dice = SeededEntropy::new(seed);
    let mut stream = Stream::of(&world.stack);
    let mut waiting: Vec<Value> = Vec::new();
    let mut feed = make(&world);
    loop {
        let read = stream.read().await;
        let read = read.into_iter().filter(|record| is_of_kind(record, kinds));
        waiting.extend(read.filter(|record| part.holds(record)));
        if waiting.is_empty() {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        let batch = &waiting[..waiting.len().min(BATCH)];
        let context = world.context();
        let answer = feed.batch(as_event(batch), &context);
        let done = match unless_it_ends(&dice, FEED_CRASHES, answer).await {
            Some(answer) => done_with(&answer, batch),
            None => {
                feed = make(&world);
                0
            }
        };
        waiting.drain(..done);
    }
}

pub fn as_message(stack: &Stack, suffix: &str, message: &Value) -> SqsMessage {
    let mut sqs = SqsMessage::default();
    let part = |name: &str| Some(text(&message[name]).to_owned());
    sqs.message_id = part("MessageId");
    sqs.receipt_handle = part("ReceiptHandle");
    sqs.body = part("Body");
    sqs.event_source_arn = Some(stack.queue_arn(suffix));
    sqs
}

/// Polls a lane endlessly, as one of Lambda's pollers does.
pub async fn poll(
    world: Arc<World>,
    suffix: &'static str,
    most: usize,
    agent: Arc<dyn Fn(Core) -> Arc<dyn TaskAgent> + Send + Sync>,
    seed: u64,
) {
    let dice = SeededEntropy::new(seed);
    let start = || {
        let core = world.core();
        Arc::new(world.lane(core.clone(), agent(core)))
    };
    let mut lane: Arc<Lane<AgentLane>> = start();
    loop {
        let messages = world.stack.receive(suffix, most).await;
        if messages.is_empty() {
            continue;
        }
        let mut event = SqsEvent::default();
        event.records = messages.iter().map(|m| as_message(&world.stack, suffix, m)).collect();
        let context = context(&*world.setup.clock);
        match unless_it_ends(&dice, LANE_CRASHES, lane.batch(event, &context)).await {
            Some(answer) => world.stack.delete(suffix, &handled(&answer, &messages)).await,
            None => lane = start(),
        }
    }
}

/// The receipts of the messages that the answer does not report as failed.
pub fn handled(answer: &BatchAnswer, messages: &[Value]) -> Vec<String> {
    let failed = |message: &&Value| {
        let id = text(&message["MessageId"]);
        answer.batch_item_failures.iter().any(|failure| failure.item_identifier == id)
    };
    let done = messages.iter().filter(|message| !failed(message));
    done.map(|message| text(&message["ReceiptHandle"]).to_owned()).collect()
}
