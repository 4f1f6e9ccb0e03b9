//! Tests of a domain's lists and the agent registry.

use std::time::Duration;

use watchbill_redis::keys::{ClaimedMessage, DomainWrite, Registration, Rejected};
use watchbill_testkit::RedisServer;
use watchbill_wire::legacy::WriteOutcome;

use super::fixture::{Hand, foreign, open, strings, until};

const LONG: Duration = Duration::from_secs(600);
/// Bytes that no JSON writer would reproduce.
const ODD: &[u8] = b"{ \"task_id\":\"\xff\" }\n";

async fn push(hand: &mut Hand, message: &[u8]) {
    hand.try_ask::<()>(&[&b"LPUSH"[..], b"tasks:pending:devops", message]).await.unwrap();
}

async fn length(hand: &mut Hand, key: &str) -> usize {
    hand.ask(&format!("LLEN {key}")).await
}

fn result(id: &str, version: u64, done: bool) -> DomainWrite {
    let status = if done { "completed" } else { "in_progress" };
    DomainWrite {
        id: id.into(),
        version,
        fields: vec![("task_id".into(), id.into()), ("status".into(), status.into())],
        logs: vec![format!("[now] version {version}")],
        publish: done.then(|| format!("{{\"status\":\"{status}\"}}")),
        done,
    }
}

#[tokio::test]
async fn messages_are_taken_byte_for_byte_the_longest_waiting_first() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for message in [ODD, b"second", b"third"] {
        push(&mut hand, message).await;
    }
    assert_eq!(peer.pending("devops").await.unwrap(), 3);
    let taken = peer.take_messages("devops", LONG, 2).await.unwrap();
    let taken: Vec<_> = taken.iter().map(|one| (&*one.message, one.again)).collect();
    assert_eq!(taken, [(ODD, false), (&b"second"[..], false)]);
    let active: Vec<Vec<u8>> = hand.ask("LRANGE tasks:active:devops 0 -1").await;
    assert_eq!(active, [&b"second"[..], ODD]);
    assert_eq!(peer.take_messages("devops", LONG, 2).await.unwrap().len(), 1);
    assert_eq!(peer.take_messages("devops", LONG, 2).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_settled_in_time_comes_first() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    push(&mut hand, b"a").await;
    push(&mut hand, b"b").await;
    let short = Duration::from_millis(50);
    assert_eq!(peer.take_messages("devops", short, 2).await.unwrap().len(), 2);
    for _ in 0..2 {
        peer.begin("devops", "a", b"a").await.unwrap();
        peer.settle_message("devops", b"a").await.unwrap();
    }
    push(&mut hand, b"c").await;
    let again = until("the lease's end", async || {
        let taken = peer.take_messages("devops", LONG, 1).await.unwrap();
        taken.into_iter().find(|one| one.again)
    });
    assert_eq!(again.await, ClaimedMessage { message: b"b".into(), again: true });
    assert_eq!(peer.open_tasks("devops").await.unwrap(), ["a"]);
}

#[tokio::test]
async fn a_result_is_told_once_and_its_message_leaves() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let mut heard = peer.listen(&strings(&["results:*"])).await.unwrap();
    push(&mut hand, ODD).await;
    push(&mut hand, b"other").await;
    peer.take_messages("devops", LONG, 2).await.unwrap();
    peer.begin("devops", "a", ODD).await.unwrap();
    for _ in 0..2 {
        peer.write_result("devops", &result("a", 2, false)).await.unwrap();
        assert_eq!(length(&mut hand, "results:a:logs").await, 1);
        assert_eq!(length(&mut hand, "tasks:active:devops").await, 2);
    }
    let written = peer.write_result("devops", &result("a", 3, true)).await.unwrap();
    assert_eq!(written, WriteOutcome::Written);
    // A late older version, and the same version again.
    for late in [result("a", 2, false), result("a", 3, true)] {
        assert_eq!(peer.write_result("devops", &late).await.unwrap(), WriteOutcome::Older);
    }
    assert_eq!(hand.ask::<String>("HGET results:a status").await, "completed");
    assert_eq!(length(&mut hand, "results:a:logs").await, 2);
    let active: Vec<String> = hand.ask("LRANGE tasks:active:devops 0 -1").await;
    assert_eq!(active, ["other"]);
    assert_eq!(peer.open_tasks("devops").await.unwrap(), Vec::<String>::new());
    hand.tell("PUBLISH results:end x").await;
    assert_eq!(heard.next().await.unwrap().channel, "results:a");
    assert_eq!(heard.next().await.unwrap().channel, "results:end", "it was told once");
}

#[tokio::test]
async fn a_task_that_comes_twice_leaves_no_message_behind() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for message in [&b"same"[..], b"same", b"same task, other bytes"] {
        push(&mut hand, message).await;
    }
    for taken in peer.take_messages("devops", LONG, 9).await.unwrap() {
        peer.begin("devops", "a", &taken.message).await.unwrap();
    }
    peer.write_result("devops", &result("a", 2, true)).await.unwrap();
    assert_eq!(length(&mut hand, "tasks:active:devops").await, 0);
    assert_eq!(hand.ask::<u64>("EXISTS watchbill:tasks:active:devops:taken").await, 0);
}

#[tokio::test]
async fn what_is_refused_is_kept_once() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    push(&mut hand, ODD).await;
    peer.take_messages("devops", LONG, 1).await.unwrap();
    peer.begin("devops", "a", ODD).await.unwrap();
    let rejected = Rejected {
        queue: "tasks:pending:devops".into(),
        member: ODD.into(),
        reason: "no UTF-8".into(),
        data: None,
        at: "2026-01-31T12:00:00Z".into(),
    };
    let failed = DomainWrite {
        fields: vec![("status".into(), "failed".into())],
        publish: Some("it failed".into()),
        ..result("a", 0, true)
    };
    let mut heard = peer.listen(&strings(&["results:*"])).await.unwrap();
    for _ in 0..2 {
        peer.refuse("devops", &rejected, Some(&failed)).await.unwrap();
        assert_eq!(hand.ask::<String>("HGET results:a status").await, "failed");
        assert_eq!(length(&mut hand, "watchbill:rejected").await, 1);
        assert_eq!(length(&mut hand, "tasks:active:devops").await, 0);
    }
    assert_eq!(peer.open_tasks("devops").await.unwrap(), Vec::<String>::new());
    assert_eq!(hand.ask::<u64>("EXISTS watchbill:tasks:active:devops:taken").await, 0);
    // An existing result belongs to another message; a key that is no hash is not ours.
    hand.tell("HSET results:a status completed").await;
    hand.tell("RPUSH results:b x").await;
    for (id, message) in [("a", &b"again"[..]), ("b", b"b"), ("none", b"none")] {
        push(&mut hand, message).await;
        peer.take_messages("devops", LONG, 1).await.unwrap();
        let rejected = Rejected { member: message.into(), ..rejected.clone() };
        let failed = DomainWrite { id: id.into(), ..failed.clone() };
        let told = Some(&failed).filter(|_| id != "none");
        peer.refuse("devops", &rejected, told).await.unwrap();
        assert_eq!(length(&mut hand, "tasks:active:devops").await, 0);
    }
    assert_eq!(length(&mut hand, "watchbill:rejected").await, 4);
    assert_eq!(hand.ask::<String>("HGET results:a status").await, "completed");
    assert_eq!(hand.ask::<u64>("EXISTS results:none").await, 0);
    hand.tell("PUBLISH results:end x").await;
    assert_eq!(heard.next().await.unwrap().text, "it failed");
    assert_eq!(heard.next().await.unwrap().channel, "results:end", "it was told once");
}

#[tokio::test]
async fn a_list_of_another_kind_is_named_and_nothing_moves() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for key in ["tasks:active:devops", "watchbill:tasks:active:devops:taken"] {
        push(&mut hand, b"a").await;
        hand.tell(&format!("SET {key} x")).await;
        let text = foreign(peer.take_messages("devops", LONG, 1).await);
        assert!(text.contains(&format!("the key {key} in")), "{text}");
        assert_eq!(peer.pending("devops").await.unwrap(), 1);
        hand.tell("FLUSHALL").await;
    }
    hand.tell("SET results:a x").await;
    let text = foreign(peer.write_result("devops", &result("a", 1, true)).await);
    assert!(text.contains("results:a"), "{text}");
}

#[tokio::test]
async fn an_agent_is_found_while_it_lives() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let registration = Registration {
        id: "devops-1".into(),
        domain: "devops".into(),
        container_id: Some("box".into()),
        metadata: "{}".into(),
        at: "t0".into(),
    };
    assert!(!peer.beat("devops-1", "t1", LONG).await.unwrap());
    assert_eq!(hand.ask::<u64>("DBSIZE").await, 0);
    for _ in 0..2 {
        peer.register(&registration).await.unwrap();
    }
    for set in ["agents:all", "agents:domains", "agents:domains:devops"] {
        assert_eq!(hand.ask::<Vec<String>>(&format!("SMEMBERS {set}")).await, ["devops-1"]);
    }
    assert!(peer.beat("devops-1", "t1", Duration::from_secs(30)).await.unwrap());
    let info = "HMGET agents:info:devops-1 agent_id role domain_type status container_id \
                created_at last_heartbeat metadata";
    let info: Vec<String> = hand.ask(&info.split_whitespace().collect::<Vec<_>>().join(" ")).await;
    assert_eq!(info, ["devops-1", "domain", "devops", "active", "box", "t0", "t1", "{}"]);
    assert_eq!(hand.ask::<String>("GET agents:heartbeat:devops-1").await, "t1");
    let left: u64 = hand.ask("TTL agents:heartbeat:devops-1").await;
    assert!((1..=30).contains(&left), "{left}");
    for _ in 0..2 {
        peer.deregister(&registration).await.unwrap();
        assert_eq!(hand.ask::<u64>("DBSIZE").await, 0);
    }
}
