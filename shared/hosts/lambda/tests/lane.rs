//! Tests of the loop over a lane's batches, with real queues. `WATCHBILL_AWS_ENDPOINT` holds the
//! emulator's address.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use aws_sdk_sqs::Client;
use lambda_runtime::Context;
use watchbill_aws::config::sdk_config;
use watchbill_aws::lanes::Queues;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Clock as _;
use watchbill_lambda::{BatchAnswer, Lane, LaneHandler, Message};
use watchbill_testkit::FakeClock;

/// Does what the message says.
#[derive(Default)]
struct Obedient {
    begun: Arc<AtomicUsize>,
}

#[async_trait]
impl LaneHandler for Obedient {
    type Form = String;

    fn parse(&self, body: &str) -> Result<Message<String>, String> {
        match body {
            "riddle" => Err("it can't be parsed".to_owned()),
            _ => Ok(Message { form: body.into(), task: "t".into(), trace: "x".into() }),
        }
    }

    async fn handle(&self, form: String) -> Result<(), HandlerError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        match &*form {
            "again" => Err(HandlerError::retry(Duration::ZERO, "not yet")),
            "never" => Err(HandlerError::Reject { reason: "no such task".to_owned() }),
            "panic" => panic!("on purpose"),
            _ => Ok(()),
        }
    }
}

struct World {
    client: Client,
    queues: Queues,
    clock: Arc<FakeClock>,
    begun: Arc<AtomicUsize>,
    lane: Lane<Obedient>,
}

const NEEDS: Duration = Duration::from_secs(10);

impl World {
    async fn new(name: &str) -> Self {
        let endpoint = std::env::var("WATCHBILL_AWS_ENDPOINT").unwrap_or_else(|_| {
            panic!("WATCHBILL_AWS_ENDPOINT is not set: run this with `cargo xtask test`, which starts an emulator")
        });
        let env = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", &endpoint),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let client = Client::new(&sdk_config(&env.collect()).unwrap());
        for queue in ["ops-p2", "ops-dead"] {
            client.create_queue().queue_name(format!("{name}-{queue}")).send().await.unwrap();
        }
        let queues = Queues::new(&format!("{endpoint}/000000000000/{name}-"));
        let clock = Arc::new(FakeClock::default());
        let handler = Obedient::default();
        let begun = handler.begun.clone();
        let lane =
            Lane::new(handler, client.clone(), queues.clone(), clock.clone(), "ops-dead", NEEDS);
        Self { client, queues, clock, begun, lane }
    }

    async fn send(&self, body: &str) {
        let url = self.queues.url("ops-p2");
        self.client.send_message().queue_url(url).message_body(body).send().await.unwrap();
    }

    /// The messages that a queue returns within a second, in Lambda's format.
    async fn receive(&self, queue: &str) -> Vec<SqsMessage> {
        let call = self.client.receive_message().queue_url(self.queues.url(queue));
        let call = call.max_number_of_messages(10).wait_time_seconds(1).visibility_timeout(75);
        let got = call.send().await.unwrap().messages.unwrap_or_default();
        let name = self.queues.url(queue).rsplit('/').next().unwrap().to_owned();
        let arn = format!("arn:aws:sqs:us-east-1:000000000000:{name}");
        let message = |message: aws_sdk_sqs::types::Message| {
            let mut given = SqsMessage::default();
            given.message_id = message.message_id;
            given.receipt_handle = message.receipt_handle;
            given.body = message.body;
            given.event_source_arn = Some(arn.clone());
            given
        };
        got.into_iter().map(message).collect()
    }

    /// Handles all waiting messages in one batch. Returns the bodies of those to be delivered
    /// again.
    async fn batch(&self, left: Duration) -> Vec<String> {
        let records = self.receive("ops-p2").await;
        let mut context = Context::default();
        context.deadline = self.clock.now().plus(left).millis() as u64;
        let mut event = SqsEvent::default();
        event.records.clone_from(&records);
        let answer: BatchAnswer = self.lane.batch(event, &context).await;
        let failed: Vec<&str> =
            answer.batch_item_failures.iter().map(|f| f.item_identifier.as_str()).collect();
        for record in &records {
            // Lambda deletes those that the response does not name.
            if !failed.contains(&record.message_id.as_deref().unwrap()) {
                let delete = self.client.delete_message().queue_url(self.queues.url("ops-p2"));
                let receipt = record.receipt_handle.clone().unwrap();
                delete.receipt_handle(receipt).send().await.unwrap();
            }
        }
        let body = |id: &&str| {
            let record = records.iter().find(|record| record.message_id.as_deref() == Some(id));
            record.unwrap().body.clone().unwrap()
        };
        let mut bodies: Vec<String> = failed.iter().map(body).collect();
        bodies.sort();
        bodies
    }
}

#[tokio::test]
async fn each_message_has_its_own_outcome() {
    let world = World::new("fates").await;
    for body in ["done", "again", "never", "panic", "riddle", "done"] {
        world.send(body).await;
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let back = world.batch(NEEDS).await;
    std::panic::set_hook(hook);
    assert_eq!(back, ["again", "panic"]);
    assert_eq!(world.begun.load(Ordering::Relaxed), 5, "all but the unreadable one");
    let dead = world.receive("ops-dead").await;
    let mut dead: Vec<_> = dead.iter().filter_map(|message| message.body.as_deref()).collect();
    dead.sort_unstable();
    assert_eq!(dead, ["never", "riddle"], "unprocessable messages are kept");
    // The message with a retry delay is visible again long before its visibility timeout ends.
    let again = world.receive("ops-p2").await;
    let again: Vec<_> = again.iter().filter_map(|message| message.body.as_deref()).collect();
    assert_eq!(again, ["again"]);
}

#[tokio::test]
async fn nothing_is_begun_that_would_not_end() {
    let world = World::new("late").await;
    for _ in 0..3 {
        world.send("done").await;
    }
    assert_eq!(world.batch(NEEDS - Duration::from_millis(1)).await.len(), 3);
    assert_eq!(world.begun.load(Ordering::Relaxed), 0);
}
