//! Tests of the port: values on our side, the legacy formats in Redis.

use std::time::Duration;

use serde_json::{Value, json};
use watchbill_domain::{Status, Timestamp};
use watchbill_redis::RedisLegacyQueue;
use watchbill_testkit::RedisServer;
use watchbill_wire::legacy::{
    ChannelMessage, DomainAgent, DomainResult, ExportedTask, LegacyChannels as _,
    LegacyDomains as _, LegacyMirror as _, LegacyRegistry as _, LegacyTasks as _, Listening,
    Origin, OutgoingEvent, RejectedMessage, RejectedTask, WorkerUpdate, WriteBack, WriteOutcome,
};
use watchbill_wire::{ApprovalView, EventView};

use super::fixture::{Hand, options, strings};
use super::forms::{EVENT, ID, MESSAGE, TASK, view};

const LONG: Duration = Duration::from_secs(600);
const AT: &str = "2026-01-31T12:00:00.000+00:00";

fn open(server: &RedisServer) -> RedisLegacyQueue {
    RedisLegacyQueue::open(&server.url(), options()).unwrap()
}

fn at() -> Timestamp {
    Timestamp::parse(AT).unwrap()
}

async fn put(hand: &mut Hand, id: &str, data: &str) {
    let key = format!("orchestrator:task:{id}");
    hand.try_ask::<()>(&["HSET", &key, "data", data, "status", "assigned"]).await.unwrap();
    hand.try_ask::<()>(&["ZADD", "orchestrator:tasks", "2", id]).await.unwrap();
}

async fn data(hand: &mut Hand, id: &str) -> Value {
    let text: String = hand.ask(&format!("HGET orchestrator:task:{id} data")).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_task_is_read_and_written_over_in_its_form() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    put(&mut hand, ID, TASK).await;
    put(&mut hand, "odd", r#"{"assigned_to": "seo_agent", "type": NaN}"#).await;
    let asked = strings(&[ID, "gone", "odd"]);
    let mut read = peer.read_tasks(&asked).await.unwrap();
    let odd = read.pop().flatten().unwrap();
    assert!(odd.to.is_some() && odd.task.unwrap_err().reason.contains("not a JSON object"));
    assert_eq!(read.pop(), Some(None));
    let read = read.pop().flatten().unwrap();
    assert_eq!((read.status.as_str(), read.fed), ("assigned", None));
    let (task, there) = read.task.unwrap();
    assert_eq!((read.to, there.as_str()), (Some(task.addressee()), TASK));
    let mut here = view("completed");
    here.metadata.extend(task.task.metadata);
    assert_eq!(peer.origin(&here), Some(Origin::Queue));
    peer.take(&asked[..1], "one", LONG).await.unwrap();
    let write = WriteBack { task: &here, over: Some(&there), at: at() };
    assert_eq!(peer.write(&[write]).await.unwrap(), [WriteOutcome::Written]);
    let kept: Vec<String> =
        hand.ask(&format!("HMGET orchestrator:task:{ID} status updated_at")).await;
    assert_eq!(kept, ["completed", AT]);
    let kept = data(&mut hand, ID).await;
    assert_eq!((&kept["status"], &kept["assigned_to"]), (&json!("completed"), &json!("ops_agent")));
    assert_eq!(peer.worked_on(0).await.unwrap().1, Vec::<String>::new());
}

#[tokio::test]
async fn a_rejected_task_fails_in_its_form() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    put(&mut hand, ID, TASK).await;
    let listening = Listening { types: true, events: true, ..Listening::default() };
    let mut heard = peer.listen(&listening).await.unwrap();
    let (data_there, reason) = (Some(TASK.into()), "too large".to_owned());
    let rejected = RejectedTask { id: ID.into(), data: data_there, reason, at: at() };
    assert_eq!(peer.rejection(&rejected).event.payload["error"], "too large");
    for wanted in [true, false] {
        assert_eq!(peer.reject(&rejected).await.unwrap(), wanted);
    }
    assert_eq!(data(&mut hand, ID).await["status"], "failed");
    let entry: String = hand.ask("LINDEX watchbill:rejected 0").await;
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(
        entry,
        json!({"queue": "orchestrator:tasks", "member": ID, "reason": "too large", "at": AT, "data": TASK})
    );
    for channel in ["orchestrator:events:task.failed", "orchestrator:events:*"] {
        let event_type = channel.rsplit(':').next().unwrap().to_owned();
        let told = ChannelMessage::Event { channel: channel.into(), event_type, event: Ok(None) };
        assert_eq!(heard.next().await.unwrap(), told, "our own is nothing");
    }
}

#[tokio::test]
async fn an_exported_task_gets_its_workers_report() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    let fed = ExportedTask { task: view("assigned"), assigned_to: "dev_agent".into() };
    for _ in 0..2 {
        assert_eq!(peer.offer(std::slice::from_ref(&fed)).await.unwrap(), [Ok(())]);
    }
    assert_eq!(peer.peek(0, 9).await.unwrap()[0].score, 2.0);
    assert_eq!(data(&mut hand, ID).await["assigned_to"], "dev_agent");
    let asked = strings(&[ID, "gone", "text"]);
    hand.tell("SET orchestrator:task:text x").await;
    let words = peer.read_words(&asked).await.unwrap();
    let WorkerUpdate::Report { status, assigned_to, .. } = &words[0] else { panic!("{words:?}") };
    assert_eq!((*status, assigned_to.as_str()), (Status::Assigned, "dev_agent"));
    assert_eq!(words[1], WorkerUpdate::Missing);
    assert!(matches!(words[2], WorkerUpdate::Unreadable { .. }), "{words:?}");
    for (said, wanted) in [
        (json!({"metadata": {"result": {"n": 1}}}), Some(json!({"n": 1}))),
        (json!({"metadata": {"result": [1]}}), Some(json!({"value": [1]}))),
        (json!({"metadata": {"result": null}}), None),
        (json!("no object"), None),
    ] {
        let key = format!("orchestrator:task:{ID}");
        let words = ["HSET", &key, "data", &said.to_string(), "status", "completed"];
        hand.try_ask::<()>(&words).await.unwrap();
        let word = peer.read_words(&asked[..1]).await.unwrap().remove(0);
        let WorkerUpdate::Report { status, result, .. } = word else { panic!("{word:?}") };
        assert_eq!((status, result.map(Value::Object)), (Status::Completed, wanted));
    }
}

#[tokio::test]
async fn events_are_published_but_those_that_came_from_there() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    let domains = vec!["devops".to_owned()];
    let listening = Listening { events: true, domains, ..Listening::default() };
    let mut heard = peer.listen(&listening).await.unwrap();
    let types = Listening { types: true, ..Listening::default() };
    let mut types = peer.listen(&types).await.unwrap();
    let ours: EventView = serde_json::from_str(EVENT).unwrap();
    let mut theirs = ours.clone();
    theirs.event_id = serde_json::from_value(json!("redis:x")).unwrap();
    let page = [&ours, &theirs].map(|event| OutgoingEvent { event, task: None });
    let to = &ours.event_id;
    assert_eq!(peer.publish("a", None, to, &page).await.unwrap(), Some(1));
    assert_eq!(peer.publish("a", None, to, &page).await.unwrap(), None);
    assert_eq!(peer.publish("a", Some(to), &theirs.event_id, &[]).await.unwrap(), Some(0));
    assert_eq!(peer.cursor("a").await.unwrap().as_deref(), Some("redis:x"));
    hand.tell("PUBLISH notifications:devops x").await;
    hand.try_ask::<()>(&["PUBLISH", "orchestrator:events:deploy.started", EVENT]).await.unwrap();
    hand.tell("PUBLISH orchestrator:events:task.created {}").await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(heard.next().await.unwrap());
    }
    assert!(matches!(
        &all[..2],
        [ChannelMessage::Event { event: Ok(None), .. }, ChannelMessage::Event { .. }]
    ));
    assert_eq!(all[2], ChannelMessage::Notice);
    let ChannelMessage::Event { event_type, event: Ok(Some(event)), .. } = &all[3] else {
        panic!("{all:?}")
    };
    assert_eq!(
        (event_type.as_str(), event.event.event_type.as_str()),
        ("deploy.started", "deploy.started")
    );
    assert!(matches!(&all[4], ChannelMessage::Event { event: Err(_), .. }), "{all:?}");
    for wanted in ["deploy.started", "*", "deploy.started", "task.created"] {
        let heard = types.next().await.unwrap();
        let ChannelMessage::Event { event_type, event: Ok(None), .. } = &heard else {
            panic!("{heard:?}")
        };
        assert_eq!(event_type, wanted);
    }
}

#[tokio::test]
async fn a_domains_message_is_answered_in_its_form() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    for message in [MESSAGE, br#"{"task_id":"bad"}"#] {
        hand.try_ask::<()>(&[&b"LPUSH"[..], b"tasks:pending:devops", message]).await.unwrap();
    }
    let mut taken = peer.take_messages("devops", LONG, 9).await.unwrap();
    let bad = taken.pop().unwrap();
    let (message, reason) = (bad.message, bad.task.unwrap_err());
    let rejected = RejectedMessage { message, reason, at: at() };
    assert!(peer.refusal(&rejected).is_some());
    peer.refuse("devops", &rejected).await.unwrap();
    assert_eq!(hand.ask::<String>("HGET results:bad status").await, "failed");
    let good = taken.pop().unwrap();
    let task = good.task.unwrap();
    peer.begin("devops", &task.peer_id, &good.message).await.unwrap();
    let mut here = view("failed");
    (here.task_id, here.metadata) = (task.id, task.task.metadata);
    assert_eq!(peer.origin(&here), Some(Origin::Domain("devops")));
    let notes = vec![("t0".to_owned(), "looked".to_owned())];
    let result = DomainResult { task: &here, notes, line: "failed: x".into(), at: at() };
    assert_eq!(peer.write_result("devops", &result).await.unwrap(), WriteOutcome::Written);
    let logs: Vec<String> = hand.ask("LRANGE results:d-1:logs 0 -1").await;
    assert_eq!(logs, ["[t0] looked".to_owned(), format!("[{AT}] failed: x")]);
    assert_eq!(peer.open("devops").await.unwrap(), Vec::<String>::new());
    for (status, over) in [("pending", false), ("in_progress", false), ("blocked", true)] {
        assert_eq!(DomainResult::is_over(view(status).status), over, "{status}");
    }
}

#[tokio::test]
async fn an_agent_and_an_approval_are_shown_in_their_forms() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server), Hand::at(&server).await);
    let workers = strings(&["ci"]);
    let (id, domain) = ("devops-1".to_owned(), "devops".to_owned());
    let agent = DomainAgent { id, domain, container_id: None, workers, at: at() };
    peer.register(&agent).await.unwrap();
    let kept: Vec<String> = hand.ask("HMGET agents:info:devops-1 metadata created_at").await;
    assert_eq!(kept, [r#"{"domain":"devops","workers":["ci"]}"#, AT]);
    assert!(peer.beat("devops-1", at(), LONG).await.unwrap());
    peer.deregister(&agent).await.unwrap();
    assert_eq!(hand.ask::<u64>("DBSIZE").await, 0);
    let mut approval = json!({
        "approval_id": format!("approval_{ID}"), "task_id": ID, "status": "pending",
        "summary": "", "reasons": ["a rule"], "plan": {}, "plan_hash": "", "requested_by": "ci",
        "requested_at": AT, "expires_at": AT, "approved_by": null, "rejected_by": null,
        "decided_at": null, "reason": null, "trace_id": "", "version": 1,
    });
    for (status, key) in [("pending", "pending"), ("approved", "history")] {
        approval["status"] = status.into();
        let view: ApprovalView = serde_json::from_value(approval.clone()).unwrap();
        assert!(peer.show_approval(&view, None).await.unwrap());
        let kept: String = hand.ask(&format!("GET hitl:{key}:approval_{ID}")).await;
        let kept: Value = serde_json::from_str(&kept).unwrap();
        assert_eq!((&kept["status"], &kept["reason"]), (&json!(status), &json!("a rule")));
    }
    assert_eq!(hand.ask::<u64>(&format!("EXISTS hitl:pending:approval_{ID}")).await, 0);
}
