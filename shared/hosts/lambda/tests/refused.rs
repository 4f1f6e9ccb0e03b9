//! Tests of content that SQS and EventBridge refuse, with a mock server: the rest is accepted,
//! and the sender learns what was refused. A throttle, outage or missing permission refuses
//! nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_types::SdkConfig;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use watchbill_aws::bus::EventBridgeBus;
use watchbill_aws::config::sdk_config;
use watchbill_aws::lanes::{Queues, SqsLanes};
use watchbill_aws::notices::SqsNotices;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, BusError, LaneMessage, Lanes, LanesError};
use watchbill_domain::{
    Agent, Event, EventId, EventPriority, EventType, Priority, TaskId, TenantId, Timestamp,
};
use watchbill_lambda::Events;
use watchbill_wire::{EventView, LaneForm, NoticeForm, is_portable};

/// How the mock server refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    /// It reports each refused message.
    ByMessage,
    /// It refuses the whole call.
    Whole,
    /// It refuses every call, whatever the content.
    Throttled,
    NoRight,
}

struct Peer {
    sdk: SdkConfig,
    endpoint: String,
    /// Bodies and details that it accepted.
    taken: Arc<Mutex<Vec<String>>>,
}

/// The characters that SQS's reference allows. The word `poison` stands for any other content
/// that is refused.
fn is_fine(text: &str) -> bool {
    text.chars().all(is_portable) && !text.contains("poison")
}

impl Peer {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let env = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", &endpoint),
        ];
        let env: BTreeMap<String, String> =
            env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let sdk = sdk_config(&env).unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let peer = Self { sdk, endpoint, taken: taken.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, mood, taken.clone()));
            }
        });
        peer
    }

    fn lanes(&self) -> SqsLanes {
        let client = aws_sdk_sqs::Client::new(&self.sdk);
        SqsLanes::new(client, Queues::new(&format!("{}/000000000000/w-", self.endpoint)))
    }

    fn notices(&self) -> SqsNotices {
        let client = aws_sdk_sqs::Client::new(&self.sdk);
        let url = format!("{}/000000000000/w-notify", self.endpoint);
        SqsNotices::new(client, url, vec!["deploy.failed".to_owned()])
    }

    fn bus(&self) -> EventBridgeBus {
        EventBridgeBus::new(aws_sdk_eventbridge::Client::new(&self.sdk), "bus")
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

async fn serve(mut stream: TcpStream, mood: Mood, taken: Arc<Mutex<Vec<String>>>) {
    while let Some((target, request)) = read_request(&mut stream).await {
        let (status, body) = answer(&target, &request, mood, &taken);
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} It\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(target: &str, request: &Value, mood: Mood, taken: &Mutex<Vec<String>>) -> (u16, Value) {
    let to_sqs = target.starts_with("AmazonSQS");
    let code = match (mood, to_sqs) {
        (Mood::Throttled, true) => Some("com.amazonaws.sqs#RequestThrottled"),
        (Mood::Throttled, false) => Some("ThrottlingException"),
        (Mood::NoRight, _) => Some("AccessDeniedException"),
        _ => None,
    };
    if let Some(code) = code {
        return (400, json!({ "__type": code, "message": "said the peer" }));
    }
    let field = if to_sqs { "MessageBody" } else { "Detail" };
    let text = |entry: &Value| entry[field].as_str().unwrap().to_owned();
    let entries = request["Entries"].as_array().unwrap();
    assert!((1..=10).contains(&entries.len()), "{} entries", entries.len());
    let bytes: usize = entries.iter().map(|entry| text(entry).len()).sum();
    assert!(entries.len() == 1 || bytes <= 256 * 1024, "{bytes} bytes in one call");
    let source = |entry: &Value| entry["Source"].as_str().unwrap_or_default().to_owned();
    let fine = |entry: &&Value| is_fine(&text(entry)) && is_fine(&source(entry));
    if mood == Mood::Whole && !entries.iter().all(|entry| fine(&entry)) {
        let code = match to_sqs {
            true => "com.amazonaws.sqs#InvalidMessageContents",
            false => "ValidationException",
        };
        return (400, json!({ "__type": code, "message": "said the peer" }));
    }
    taken.lock().unwrap().extend(entries.iter().filter(fine).map(text));
    if to_sqs {
        let (good, bad): (Vec<&Value>, Vec<&Value>) = entries.iter().partition(fine);
        let good = good
            .iter()
            .map(|entry| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": ""}));
        let bad = bad.iter().map(|entry| {
            let code = "InvalidMessageContents";
            json!({"Id": entry["Id"], "Code": code, "SenderFault": true, "Message": "said the peer"})
        });
        let (good, bad): (Vec<Value>, Vec<Value>) = (good.collect(), bad.collect());
        return (200, json!({ "Successful": good, "Failed": bad }));
    }
    let said = |entry: &Value| match fine(&entry) {
        true => json!({ "EventId": "e" }),
        false => json!({ "ErrorCode": "MalformedDetail", "ErrorMessage": "said the peer" }),
    };
    let failed = entries.iter().filter(|entry| !fine(entry)).count();
    let said: Vec<Value> = entries.iter().map(said).collect();
    (200, json!({ "FailedEntryCount": failed, "Entries": said }))
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let header = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).unwrap().1.to_owned()
    };
    let length: usize = header("content-length").parse().unwrap();
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let target = header("x-amz-target");
    Some((target, serde_json::from_slice(&bytes[head..]).unwrap()))
}

fn message(id: &str) -> (LaneMessage, Duration) {
    let message = LaneMessage {
        tenant: TenantId::default(),
        task_id: TaskId::parse(id).unwrap(),
        assignment: 1,
        agent: Agent::Ops,
        priority: Priority::P2,
        trace_id: format!("trace-{id}"),
    };
    (message, Duration::ZERO)
}

fn event(id: &str, bytes: usize) -> Event {
    Event {
        event_id: EventId::parse(id).unwrap(),
        event_type: EventType::parse("deploy.failed").unwrap(),
        priority: EventPriority::High,
        source_agent: format!("ci-{}", id.replace("poison", "")),
        trace_id: id.to_owned(),
        task_id: Some(TaskId::parse(id).unwrap()),
        payload: Map::from_iter([(id.to_owned(), Value::from("x".repeat(bytes)))]),
        timestamp: Timestamp::from_millis(1_760_954_400_000),
        metadata: Map::new(),
        hops: 0,
    }
}

/// Ids that any agent's key can send.
const ODD: [&str; 4] = ["a\u{fffe}", "\u{ffff}", "c\u{fffe}\u{ffff}d", "é\u{1fffe}"];

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.event_id.to_string()).collect()
}

#[tokio::test]
async fn any_id_trace_and_payload_is_carried_and_read_back_as_it_was() {
    for mood in [Mood::ByMessage, Mood::Whole] {
        let peer = Peer::start(mood).await;
        let messages: Vec<_> = ODD.iter().map(|id| message(id)).collect();
        peer.lanes().enqueue(messages.clone()).await.unwrap();
        let read: Vec<LaneMessage> =
            peer.taken().iter().map(|body| LaneForm::read(body).unwrap()).collect();
        let wanted: Vec<LaneMessage> = messages.into_iter().map(|(message, _)| message).collect();
        assert_eq!(read, wanted);

        let events: Vec<Event> = ODD.iter().map(|id| event(id, 10)).collect();
        peer.notices().publish(&TenantId::default(), &events).await.unwrap();
        let read: Vec<Event> =
            peer.taken().iter().map(|body| NoticeForm::read(body).unwrap().1).collect();
        assert_eq!(read, events);

        peer.bus().publish(&TenantId::default(), &events).await.unwrap();
        let view = |detail: &String| serde_json::from_str::<EventView>(detail).unwrap();
        let read: Vec<Event> =
            peer.taken().iter().map(|detail| view(detail).try_into().unwrap()).collect();
        assert_eq!(read, events);
    }
}

/// Found by bisection if the whole call is refused. Each of the others is accepted.
#[tokio::test]
async fn what_is_refused_for_its_content_is_named_and_the_rest_is_taken() {
    for mood in [Mood::ByMessage, Mood::Whole] {
        let peer = Peer::start(mood).await;
        let all: Vec<String> = (0..25)
            .map(|n| match [0, 7, 8, 24].contains(&n) {
                true => format!("poison-{n}"),
                false => format!("good-{n}"),
            })
            .collect();
        let (bad, good): (Vec<String>, Vec<String>) =
            all.iter().cloned().partition(|id| id.starts_with("poison"));

        let offered = peer.lanes().enqueue(all.iter().map(|id| message(id)).collect()).await;
        let Err(LanesError::Refused { messages, .. }) = offered else {
            panic!("{mood:?}: {offered:?}")
        };
        let mut refused: Vec<String> =
            messages.iter().map(|message| message.task_id.to_string()).collect();
        refused.sort();
        let sorted = |mut ids: Vec<String>| {
            ids.sort();
            ids
        };
        assert_eq!(refused, sorted(bad.clone()));
        assert_eq!(peer.taken().len(), good.len());

        let events: Vec<Event> = all.iter().map(|id| event(id, 10)).collect();
        let buses: [Box<dyn Bus>; 2] = [Box::new(peer.notices()), Box::new(peer.bus())];
        for bus in buses {
            let published = bus.publish(&TenantId::default(), &events).await;
            let Err(BusError::Refused { events, .. }) = published else {
                panic!("{mood:?}: {published:?}")
            };
            let refused = events.iter().map(ToString::to_string).collect();
            assert_eq!(sorted(refused), sorted(bad.clone()));
            assert_eq!(peer.taken().len(), good.len());
        }
    }
}

#[tokio::test]
async fn a_throttle_and_a_missing_right_refuse_nothing_for_good() {
    for mood in [Mood::Throttled, Mood::NoRight] {
        let peer = Peer::start(mood).await;
        let offered = peer.lanes().enqueue(vec![message("poison")]).await;
        assert!(matches!(offered, Err(LanesError::Partial { .. })), "{mood:?}: {offered:?}");
        let events = [event("poison", 10)];
        for bus in [Box::new(peer.notices()) as Box<dyn Bus>, Box::new(peer.bus())] {
            let published = bus.publish(&TenantId::default(), &events).await;
            assert!(matches!(published, Err(BusError::Down { .. })), "{mood:?}: {published:?}");
        }
    }
}

/// Ten of the largest exceed the limit of one call, which the mock server checks.
#[tokio::test]
async fn large_notices_are_spread_over_calls() {
    let peer = Peer::start(Mood::ByMessage).await;
    let events: Vec<Event> = (0..10).map(|n| event(&format!("e-{n}"), 100 * 1024)).collect();
    peer.notices().publish(&TenantId::default(), &events).await.unwrap();
    let read: Vec<Event> =
        peer.taken().iter().map(|body| NoticeForm::read(body).unwrap().1).collect();
    assert_eq!(ids(&read), ids(&events));
}

async fn reject(event: Value) -> Result<(), HandlerError> {
    match event["detail-type"].as_str() {
        Some("good") => Ok(()),
        Some("later") => Err(HandlerError::retry(Duration::from_secs(1), "on purpose")),
        _ => Err(HandlerError::Reject { reason: "on purpose".into() }),
    }
}

#[tokio::test]
async fn an_event_that_is_rejected_is_a_dead_letter() {
    let peer = Peer::start(Mood::Whole).await;
    let dead = |peer: &Peer| {
        let url = format!("{}/000000000000/w-events-dead", peer.endpoint);
        Events::new(reject, aws_sdk_sqs::Client::new(&peer.sdk), url)
    };
    let events = dead(&peer);
    let odd = "{\"detail-type\": \"bad\", \"detail\": {\"a\u{fffe}\": \"\u{ffff}\"}}";
    for (text, buried) in [
        (r#"{"detail-type": "good"}"#, false),
        (r#"{"detail-type": "bad", "n": 123456789012345678901234567890}"#, true),
        (odd, true),
    ] {
        events.handle(text).await.unwrap();
        let taken = peer.taken();
        assert_eq!(taken.len(), usize::from(buried), "{text}");
        for body in taken {
            assert!(body.chars().all(is_portable));
            let (one, other): (Value, Value) =
                (serde_json::from_str(&body).unwrap(), serde_json::from_str(text).unwrap());
            assert_eq!(one, other, "the event is unchanged");
        }
    }
    events.handle(r#"{"detail-type": "later"}"#).await.unwrap_err();
    assert_eq!(peer.taken(), Vec::<String>::new(), "Lambda retries it");
    // If the dead letter can't be sent, the event is not lost: Lambda retries it.
    let down = Peer::start(Mood::NoRight).await;
    dead(&down).handle(r#"{"detail-type": "bad"}"#).await.unwrap_err();
}
