//! Reads a table's stream and passes the records to `read_change` as Lambda would.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::dynamodb::EventRecord;
use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::types::{AttributeValue, Record, ShardIteratorType};
use watchbill_aws::dynamo::read_change;
use watchbill_core::ports::Change;
use watchbill_testkit::store_suite::Follow;

/// Empty reads, a few ms apart, before an expected change counts as lost.
const EMPTY_READS: u32 = 3_000;

pub struct StreamFeed {
    client: Client,
    stream: String,
    /// Changes are numbered as they come; those up to this one are skipped.
    after: u64,
    read: u64,
    waiting: VecDeque<(u64, Change)>,
    iterator: Option<String>,
}

impl StreamFeed {
    pub fn open(client: Client, stream: String, after: u64) -> Self {
        Self { client, stream, after, read: 0, waiting: VecDeque::new(), iterator: None }
    }

    async fn begin(&self) -> String {
        let stream = self.client.describe_stream().stream_arn(&self.stream).send().await.unwrap();
        let shards = stream.stream_description.and_then(|stream| stream.shards).unwrap_or_default();
        let [shard] = &shards[..] else {
            panic!("numbering the changes needs one shard, not {}", shards.len())
        };
        let first = self
            .client
            .get_shard_iterator()
            .stream_arn(&self.stream)
            .shard_id(shard.shard_id().unwrap())
            .shard_iterator_type(ShardIteratorType::TrimHorizon);
        first.send().await.unwrap().shard_iterator.unwrap()
    }

    async fn read(&mut self) {
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => self.begin().await,
        };
        let answer = self.client.get_records().shard_iterator(iterator).send().await.unwrap();
        self.iterator = answer.next_shard_iterator;
        for record in answer.records.unwrap_or_default() {
            self.read += 1;
            let change = read_change(&as_lambda_gives_it(&record)).unwrap();
            if self.read > self.after {
                self.waiting.push_back((self.read, change));
            }
        }
    }
}

#[async_trait]
impl Follow for StreamFeed {
    async fn next(&mut self, max: usize) -> Vec<(u64, Change)> {
        for _ in 0..EMPTY_READS {
            if !self.waiting.is_empty() {
                let most = max.min(self.waiting.len());
                return self.waiting.drain(..most).collect();
            }
            self.read().await;
            if self.waiting.is_empty() {
                // The API has no call that waits.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        panic!("no change came")
    }
}

type Image = HashMap<String, AttributeValue>;

fn as_lambda_gives_it(record: &Record) -> EventRecord {
    let change = record.dynamodb().expect("a record tells of a change");
    let mut event = EventRecord::default();
    event.event_id = record.event_id().unwrap_or("").to_owned();
    event.event_name = record.event_name().map(|name| name.as_str().to_owned()).unwrap();
    event.change.keys = item(change.keys());
    event.change.new_image = item(change.new_image());
    event.change.old_image = item(change.old_image());
    event
}

fn item(image: Option<&Image>) -> serde_dynamo::Item {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => serde_dynamo::AttributeValue::S(text.clone()),
        AttributeValue::N(number) => serde_dynamo::AttributeValue::N(number.clone()),
        AttributeValue::B(bytes) => serde_dynamo::AttributeValue::B(bytes.as_ref().to_vec()),
        other => panic!("the store writes no {other:?}"),
    };
    let image: HashMap<String, serde_dynamo::AttributeValue> =
        image.into_iter().flatten().map(|(name, v)| (name.clone(), value(v))).collect();
    image.into()
}
