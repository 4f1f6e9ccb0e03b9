//! Tests of the stream's loop: a faulty change is found by bisection, kept by its key, and
//! blocks no other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use lambda_runtime::Context;
use serde_json::json;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock as _};
use watchbill_lambda::{BatchAnswer, LeftOut, StreamConsumer, StreamHandler};
use watchbill_testkit::FakeClock;

/// What happens to the changes of some items.
#[derive(Default)]
struct Script {
    rejected: BTreeSet<String>,
    panics: BTreeSet<String>,
    later: BTreeSet<String>,
    /// `keep` always fails.
    keeps_nothing: bool,
}

#[derive(Default)]
struct Seen {
    handled: Vec<String>,
    kept: Vec<(String, Option<u64>)>,
    calls: usize,
}

struct Scripted(Script, Arc<Mutex<Seen>>);

#[async_trait]
impl StreamHandler for Scripted {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.1.lock().unwrap().calls += 1;
        let any = |of: &BTreeSet<String>| changes.iter().any(|c| of.contains(&*c.key.partition));
        assert!(!any(&self.0.panics), "on purpose");
        if any(&self.0.rejected) {
            return Err(HandlerError::Reject { reason: "on purpose".into() });
        }
        if any(&self.0.later) {
            return Err(HandlerError::retry(Duration::from_millis(1), "on purpose"));
        }
        let names = changes.iter().map(|change| change.key.partition.to_string());
        self.1.lock().unwrap().handled.extend(names);
        Ok(())
    }

    async fn keep(&self, left_out: &LeftOut, _: &str) -> Result<(), HandlerError> {
        if self.0.keeps_nothing {
            return Err(HandlerError::retry(Duration::from_secs(1), "no room"));
        }
        let kept = (left_out.key.partition.to_string(), left_out.version);
        self.1.lock().unwrap().kept.push(kept);
        Ok(())
    }
}

fn named(ns: &[usize]) -> BTreeSet<String> {
    ns.iter().map(|n| format!("P#{n}")).collect()
}

fn record(n: usize, version: &str) -> EventRecord {
    let key = json!({"pk": {"S": format!("P#{n}")}, "sk": {"S": "0"}});
    let mut image = key.clone();
    image["v"] = json!({"N": version});
    image["w"] = json!({"B": "AAAAAAAAAAAAAAAAAAAABw=="});
    image["k"] = json!({"S": "task"});
    image["s"] = json!({"N": "1"});
    image["b"] = json!({"B": "e30="});
    serde_json::from_value(json!({
        "eventID": n.to_string(), "eventName": "INSERT", "eventVersion": "1.1",
        "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/s",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600.0, "Keys": key, "NewImage": image,
            "SequenceNumber": n.to_string(), "SizeBytes": 1, "StreamViewType": "NEW_IMAGE",
        },
    }))
    .unwrap()
}

async fn pumped(script: Script, records: Vec<EventRecord>) -> (Seen, BatchAnswer) {
    let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
    let mut context = Context::default();
    context.deadline = clock.now().plus(Duration::from_secs(60)).millis() as u64;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let feed = StreamConsumer::new(Scripted(script, seen.clone()), clock, "test");
    let mut event = Event::default();
    event.records = records;
    let answer = feed.batch(event, &context).await;
    drop(feed);
    let seen = Arc::into_inner(seen).unwrap().into_inner().unwrap();
    (seen, answer)
}

fn all(number: usize) -> Vec<EventRecord> {
    (0..number).map(|n| record(n, "3")).collect()
}

/// Rejected or panicking: the neighbours are handled once and in order, and the search takes a
/// few calls, not one per change.
#[tokio::test]
async fn one_faulty_change_affects_no_other() {
    for bad in [0, 1, 99, 128, 249] {
        for panics in [false, true] {
            let at_fault = named(&[bad]);
            let script = match panics {
                true => Script { panics: at_fault, ..Script::default() },
                false => Script { rejected: at_fault, ..Script::default() },
            };
            let (seen, answer) = pumped(script, all(250)).await;
            assert_eq!(answer, BatchAnswer::default(), "nothing is delivered again");
            let wanted: Vec<String> =
                (0..250).filter(|n| *n != bad).map(|n| format!("P#{n}")).collect();
            assert_eq!(seen.handled, wanted);
            assert_eq!(seen.kept, [(format!("P#{bad}"), Some(3))]);
            assert!(seen.calls <= 20, "{} calls", seen.calls);
        }
    }
}

#[tokio::test]
async fn several_faulty_changes_are_each_kept() {
    let script =
        Script { rejected: named(&[3, 4, 260]), panics: named(&[100]), ..Script::default() };
    let (seen, answer) = pumped(script, all(600)).await;
    assert_eq!(answer, BatchAnswer::default());
    let kept: Vec<&str> = seen.kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(kept, ["P#3", "P#4", "P#100", "P#260"]);
    assert_eq!(seen.handled.len(), 596);
}

#[tokio::test]
async fn what_can_not_be_read_is_kept_by_its_key() {
    let mut records = all(10);
    records[4] = record(4, "many");
    records[6].event_name = "UPSERT".to_owned();
    records[7].change.keys = serde_json::from_value(json!({"pk": {"S": "P#7"}})).unwrap();
    let (seen, answer) = pumped(Script::default(), records).await;
    assert_eq!(answer, BatchAnswer::default());
    assert_eq!(seen.kept, [("P#4".to_owned(), None), ("P#6".to_owned(), Some(3))]);
    assert_eq!(seen.handled.len(), 7);
}

/// Only a change that can't be kept blocks the shard, from its chunk on.
#[tokio::test]
async fn what_can_not_be_kept_comes_again() {
    let script = Script { rejected: named(&[270]), keeps_nothing: true, ..Script::default() };
    let (seen, answer) = pumped(script, all(600)).await;
    let failed: Vec<&str> =
        answer.batch_item_failures.iter().map(|failed| failed.item_identifier.as_str()).collect();
    assert_eq!(failed, ["250"]);
    assert!(seen.kept.is_empty() && seen.handled.len() < 500);
    let (seen, answer) = pumped(Script { later: named(&[5]), ..Script::default() }, all(10)).await;
    assert_eq!(answer.batch_item_failures.len(), 1);
    assert_eq!((seen.kept.len(), seen.calls), (0, 3), "it is retried, then delivered again");
}
