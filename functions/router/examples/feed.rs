//! Measures how many changes per second the router handles from one shard, as Lambda delivers
//! them: JSON batches of 1,000, enqueued to lanes that accept everything.
//! `cargo xtask bench feed` runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_lambda_events::event::dynamodb::Event;
use lambda_runtime::Context;
use serde_json::{Map, Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock as _, LaneMessage, Lanes, LanesError};
use watchbill_core::service::{Core, Identity, NewTask, Ports};
use watchbill_domain::{Agent, Priority, TaskType, TenantId};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::{StreamConsumer, StreamHandler};
use watchbill_router::Router;
use watchbill_testkit::{MemoryBlobs, MemoryStore, MemoryWake};

const BATCH: usize = 1_000;
const BATCHES: usize = 40;

struct Instantly;

#[async_trait]
impl Lanes for Instantly {
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        std::hint::black_box(messages);
        Ok(())
    }

    async fn backlog(&self, _: Agent, _: Priority) -> Result<u64, LanesError> {
        Ok(0)
    }
}

struct Routing(Router);

#[async_trait]
impl StreamHandler for Routing {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.route(changes).await
    }
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "a duration is measured, nothing is decided")]
async fn main() -> anyhow::Result<()> {
    let batch = batch().await?;
    let clock = Arc::new(SystemClock::new());
    let router = Router::new(Arc::new(Instantly), clock.clone());
    let feed = StreamConsumer::new(Routing(router), clock.clone(), "bench");
    let mut context = Context::default();
    context.deadline = clock.now().plus(Duration::from_secs(900)).millis() as u64;
    let begun = Instant::now();
    for _ in 0..BATCHES {
        let event: Event = serde_json::from_slice(&batch)?;
        let answer = feed.batch(event, &context).await;
        anyhow::ensure!(answer.batch_item_failures.is_empty(), "a batch was not routed");
    }
    let took = begun.elapsed();
    let rate = (BATCH * BATCHES) as f64 / took.as_secs_f64();
    println!("{}", json!({ "changes_per_s": rate, "batch_bytes": batch.len() }));
    Ok(())
}

/// A batch of new tasks in the stream's own format.
async fn batch() -> anyhow::Result<Vec<u8>> {
    let store = Arc::new(MemoryStore::new());
    let ports = Ports {
        store: store.clone(),
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        wake: Arc::new(MemoryWake::new()),
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    for _ in 0..BATCH {
        core.tasks().create(new_task()).await?;
    }
    let changes = store.changes(0, usize::MAX);
    let records: Vec<Value> = changes.iter().map(|(seq, change)| record(*seq, change)).collect();
    Ok(serde_json::to_vec(&json!({ "Records": records }))?)
}

fn new_task() -> NewTask {
    NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        source: "user".into(),
        payload: Map::from_iter([("service".to_owned(), json!("system"))]),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "bench".into(),
        also_requested_by: Vec::new(),
        identity: Identity::Fresh,
        hops: 0,
    }
}

fn record(seq: u64, change: &Change) -> Value {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let item = change.image.as_ref().expect("new tasks have an image");
    let keys = json!({"pk": {"S": &*item.key.partition}, "sk": {"S": &*item.key.sort}});
    let mut image = keys.clone();
    image["v"] = json!({"N": item.version.to_string()});
    image["w"] = json!({"B": base64(&item.write_id.0.to_be_bytes())});
    image["k"] = json!({"S": &*item.kind});
    image["s"] = json!({"N": item.schema.to_string()});
    image["b"] = json!({"B": base64(&item.body)});
    if let Some(due) = item.due {
        image["ds"] = json!({"S": "00"});
        image["d"] = json!({"N": due.millis().to_string()});
    }
    json!({
        "eventID": seq.to_string(),
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/s",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600.0,
            "Keys": keys,
            "NewImage": image,
            "SequenceNumber": seq.to_string(),
            "SizeBytes": item.body.len(),
            "StreamViewType": "NEW_IMAGE",
        },
    })
}
