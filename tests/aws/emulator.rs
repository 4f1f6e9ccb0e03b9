//! Client of the emulated AWS, in the JSON of its services: creates the resources of the tests
//! and reads streams and queues in place of Lambda.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

const ENDPOINT: &str = "WATCHBILL_AWS_ENDPOINT";
const REGION: &str = "us-east-1";
const ACCOUNT: &str = "000000000000";

/// The queues of a stack in these tests. All tasks are for the ops agent.
const QUEUES: &[&str] = &["ops-p0", "ops-p1", "ops-p2", "ops-p3", "ops-dead", "notify", "heard"];

#[derive(Clone)]
pub struct Emulator {
    http: reqwest::Client,
    pub url: String,
}

impl Emulator {
    pub fn find() -> Self {
        let url = env::var(ENDPOINT).unwrap_or_else(|_| {
            panic!(
                "{ENDPOINT} is not set: `cargo xtask test` starts the AWS emulator that this test needs, and sets it"
            )
        });
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
        Self { http: http.expect("a client needs nothing from outside"), url }
    }

    /// `operation` has the form of the header X-Amz-Target.
    pub async fn call(&self, operation: &str, body: Value) -> Value {
        let request = self
            .http
            .post(&self.url)
            .header("x-amz-target", operation)
            .header("content-type", "application/x-amz-json-1.0")
            .header("authorization", authorization(operation))
            .body(body.to_string());
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
        };
        let (status, bytes) = answer.await.unwrap_or_else(|e| panic!("{operation}: {e:?}"));
        assert!(status.is_success(), "{operation}: {status}, {bytes:?}");
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    async fn make_bucket(&self, name: &str) {
        let call = self.http.put(format!("{}/{name}", self.url));
        let made = call.header("authorization", authorization("S3.")).send().await;
        let made = made.expect("the emulator answers");
        assert!(made.status().is_success(), "no bucket {name}: {}", made.status());
    }
}

/// The emulator does not check the signature, but reads the caller and the service from it.
fn authorization(operation: &str) -> String {
    let service = match operation.split(['.', '_']).next() {
        Some("AmazonSQS") => "sqs",
        Some("AWSEvents") => "events",
        Some("S3") => "s3",
        _ => "dynamodb",
    };
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// The AWS resources of one test, under names of its own.
#[derive(Clone)]
pub struct Stack {
    pub emulator: Emulator,
    pub name: String,
    pub table_stream: String,
}

impl Stack {
    /// `visibility`: the queues' visibility timeout in seconds.
    pub async fn make(visibility: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wb-aws-{}-{n}", std::process::id());
        let emulator = Emulator::find();
        let made = emulator.call("DynamoDB_20120810.CreateTable", table(&name)).await;
        let table_stream = text(&made["TableDescription"]["LatestStreamArn"]).to_owned();
        for queue in QUEUES {
            let attributes = json!({ "VisibilityTimeout": visibility.to_string() });
            let queue = json!({ "QueueName": format!("{name}-{queue}"), "Attributes": attributes });
            emulator.call("AmazonSQS.CreateQueue", queue).await;
        }
        emulator.make_bucket(&name).await;
        let stack = Self { emulator, name, table_stream };
        stack.make_bus().await;
        stack
    }

    /// Creates the bus. A rule copies all our events into the queue `heard`.
    async fn make_bus(&self) {
        let (bus, emulator) = (&self.name, &self.emulator);
        emulator.call("AWSEvents.CreateEventBus", json!({ "Name": bus })).await;
        let pattern = json!({ "source": [{ "prefix": "watchbill." }] }).to_string();
        let rule = json!({ "Name": "heard", "EventBusName": bus, "EventPattern": pattern });
        emulator.call("AWSEvents.PutRule", rule).await;
        let arn = self.queue_arn("heard");
        let targets = json!([{ "Id": "heard", "Arn": arn }]);
        let targets = json!({ "Rule": "heard", "EventBusName": bus, "Targets": targets });
        emulator.call("AWSEvents.PutTargets", targets).await;
    }

    pub fn queue_arn(&self, suffix: &str) -> String {
        format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{}-{suffix}", self.name)
    }

    /// The URL of all queues, without their suffix.
    pub fn queues(&self) -> String {
        format!("{}/{ACCOUNT}/{}-", self.emulator.url, self.name)
    }

    pub fn queue(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.queues())
    }

    /// Receives up to `most` messages (ten at most); waits up to a second for the first.
    pub async fn receive(&self, suffix: &str, most: usize) -> Vec<Value> {
        let asked = json!({
            "QueueUrl": self.queue(suffix), "MaxNumberOfMessages": most, "WaitTimeSeconds": 1,
        });
        let mut answer = self.emulator.call("AmazonSQS.ReceiveMessage", asked).await;
        match answer["Messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        }
    }

    pub async fn delete(&self, suffix: &str, receipts: &[String]) {
        let entry = |(n, receipt): (usize, &String)| json!({ "Id": n.to_string(), "ReceiptHandle": receipt });
        let entries: Vec<Value> = receipts.iter().enumerate().map(entry).collect();
        if !entries.is_empty() {
            let batch = json!({ "QueueUrl": self.queue(suffix), "Entries": entries });
            self.emulator.call("AmazonSQS.DeleteMessageBatch", batch).await;
        }
    }

    /// Messages of a queue: waiting, delayed and in flight.
    pub async fn left(&self, suffix: &str) -> u64 {
        let asked = json!({ "QueueUrl": self.queue(suffix), "AttributeNames": ["All"] });
        let answer = self.emulator.call("AmazonSQS.GetQueueAttributes", asked).await;
        let number = |name: &str| -> u64 {
            answer["Attributes"][name].as_str().and_then(|n| n.parse().ok()).unwrap_or_default()
        };
        number("ApproximateNumberOfMessages")
            + number("ApproximateNumberOfMessagesNotVisible")
            + number("ApproximateNumberOfMessagesDelayed")
    }

    pub async fn remove(&self) {
        let (name, emulator) = (&self.name, &self.emulator);
        emulator.call("DynamoDB_20120810.DeleteTable", json!({ "TableName": name })).await;
        for queue in QUEUES {
            let queue = json!({ "QueueUrl": self.queue(queue) });
            emulator.call("AmazonSQS.DeleteQueue", queue).await;
        }
    }
}

/// The table as template.yaml defines it.
fn table(name: &str) -> Value {
    let keys = |partition: &str, sort: &str| {
        json!([
            { "AttributeName": partition, "KeyType": "HASH" },
            { "AttributeName": sort, "KeyType": "RANGE" },
        ])
    };
    let attribute = |name: &str| {
        let kind = if name == "d" { "N" } else { "S" };
        json!({ "AttributeName": name, "AttributeType": kind })
    };
    let index = |name: &str, partition: &str, sort: &str| {
        let projection = json!({ "ProjectionType": "KEYS_ONLY" });
        json!({ "IndexName": name, "KeySchema": keys(partition, sort), "Projection": projection })
    };
    let attributes = ["pk", "sk", "l1", "l1s", "l2", "l2s", "ds", "d"].map(attribute);
    json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": attributes,
        "KeySchema": keys("pk", "sk"),
        "GlobalSecondaryIndexes":
            [index("list1", "l1", "l1s"), index("list2", "l2", "l2s"), index("due", "ds", "d")],
        "StreamSpecification": { "StreamEnabled": true, "StreamViewType": "NEW_IMAGE" },
    })
}

/// Reads a table's stream from its beginning.
pub struct Stream {
    stack: Stack,
    iterator: Option<String>,
}

impl Stream {
    pub fn of(stack: &Stack) -> Self {
        Self { stack: stack.clone(), iterator: None }
    }

    /// The next records, if there are any, in the form in which Lambda delivers them.
    pub async fn read(&mut self) -> Vec<Value> {
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => self.begin().await,
        };
        let asked = json!({ "ShardIterator": iterator, "Limit": 1000 });
        let mut answer = self.call("GetRecords", asked).await;
        self.iterator = answer["NextShardIterator"].as_str().map(str::to_owned);
        match answer["Records"].take() {
            Value::Array(records) => records,
            _ => Vec::new(),
        }
    }

    async fn begin(&self) -> String {
        let arn = &self.stack.table_stream;
        let stream = self.call("DescribeStream", json!({ "StreamArn": arn })).await;
        let shards = stream["StreamDescription"]["Shards"].as_array().expect("it has shards");
        assert_eq!(shards.len(), 1, "the emulator keeps one shard a stream");
        let shard = &shards[0]["ShardId"];
        let first = json!({
            "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON",
        });
        text(&self.call("GetShardIterator", first).await["ShardIterator"]).to_owned()
    }

    async fn call(&self, operation: &str, body: Value) -> Value {
        self.stack.emulator.call(&format!("DynamoDBStreams_20120810.{operation}"), body).await
    }
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")))
}
