//! Tests of importing tasks from the shared queue.

use std::time::Duration;

use watchbill_redis::keys::{Failure, LegacyMessage, Rejected, TaskWrite};
use watchbill_testkit::RedisServer;
use watchbill_wire::legacy::{LegacyTask, Queued, WriteOutcome};

use super::fixture::{Hand, foreign, ids, open, strings, until};

const LONG: Duration = Duration::from_secs(600);

/// A task as legacy programs enqueue it.
async fn put(hand: &mut Hand, id: &str, score: u32) {
    let task = format!("orchestrator:task:{id}");
    hand.try_ask::<()>(&["HSET", &task, "data", "{}", "status", "pending", "priority", "P1"])
        .await
        .unwrap();
    hand.tell(&format!("ZADD orchestrator:tasks {score} {id}")).await;
}

pub fn write(id: &str, version: u64, ended: bool) -> TaskWrite {
    TaskWrite {
        id: id.into(),
        version,
        data: format!("{{\"version\":{version}}}"),
        status: if ended { "completed" } else { "in_progress" }.into(),
        updated_at: "2026-01-31T12:00:00Z".into(),
        created_at: "2026-01-31T11:00:00Z".into(),
        priority: "P1".into(),
        ended,
    }
}

fn rejected(member: &[u8]) -> Rejected {
    Rejected {
        queue: "orchestrator:tasks".into(),
        member: member.into(),
        reason: "no JSON".into(),
        data: Some("{}".into()),
        at: "2026-01-31T12:00:00Z".into(),
    }
}

fn failure() -> Failure {
    let message = |channel: &str| LegacyMessage { channel: channel.into(), text: "failed".into() };
    Failure { data: "{\"failed\":1}".into(), messages: vec![message("one"), message("all")] }
}

#[tokio::test]
async fn the_most_urgent_are_seen_first() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    peer.ping().await.unwrap();
    for (id, score) in [("c", 4), ("b", 1), ("a", 2)] {
        put(&mut hand, id, score).await;
    }
    let queued = |id: &str, score| Queued { id: id.into(), score };
    assert_eq!(peer.peek(0, 2).await.unwrap(), [queued("b", 1.0), queued("a", 2.0)]);
    assert_eq!(peer.peek(2, 2).await.unwrap(), [queued("c", 4.0)]);
    assert_eq!(peer.peek(0, 0).await.unwrap(), []);
    assert_eq!(peer.depth().await.unwrap(), 3);
}

#[tokio::test]
async fn what_no_program_can_name_is_moved_to_the_rejected() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    put(&mut hand, "good", 3).await;
    // Malformed, but valid ids of other programs.
    let long = "x".repeat(129);
    for odd in [&b"\xff\xfe"[..], b"", long.as_bytes()] {
        hand.try_ask::<()>(&[&b"ZADD"[..], b"orchestrator:tasks", b"1", odd]).await.unwrap();
    }
    let seen = peer.peek(0, 9).await.unwrap();
    let seen: Vec<&str> = seen.iter().map(|queued| queued.id.as_str()).collect();
    assert_eq!(seen, ["", &long, "good"]);
    assert_eq!((peer.depth().await.unwrap(), peer.moved_aside()), (3, 1));
    let kept: Vec<String> = hand.ask("LRANGE watchbill:rejected 0 -1").await;
    assert_eq!(kept.len(), 1);
    assert!(kept[0].contains(r#""member_base64":"//4=""#), "{kept:?}");
}

#[tokio::test]
async fn each_task_is_read_for_itself() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    put(&mut hand, "plain", 1).await;
    put(&mut hand, "fed", 1).await;
    hand.tell("HSET orchestrator:task:fed watchbill_fed 3").await;
    hand.tell("SET orchestrator:task:text hello").await;
    let broken = [&b"HSET"[..], b"orchestrator:task:bytes", b"data", b"\xff"];
    hand.try_ask::<()>(&broken).await.unwrap();
    hand.tell("HSET orchestrator:task:half status pending").await;
    put(&mut hand, "written", 1).await;
    hand.tell("HSET orchestrator:task:written watchbill_version 2").await;
    let asked = strings(&["plain", "text", "gone", "bytes", "half", "fed", "written"]);
    let found = peer.read(&asked).await.unwrap();
    let task = |fed, written| {
        let (data, status) = ("{}".into(), "pending".into());
        LegacyTask::Found { data, status, fed, written }
    };
    assert_eq!(
        (&found[0], &found[2], &found[5], &found[6]),
        (&task(None, false), &LegacyTask::Missing, &task(Some(3), false), &task(None, true))
    );
    for (i, why) in [(1, "orchestrator:task:text"), (3, "not UTF-8"), (4, "data is missing")] {
        let LegacyTask::Unreadable { reason, data } = &found[i] else { panic!("{:?}", found[i]) };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(data.as_deref(), (i == 3).then_some(&b"\xff"[..]));
    }
}

#[tokio::test]
async fn two_takers_at_once_get_each_id_once() {
    let server = RedisServer::start();
    let (one, two, mut hand) = (open(&server.url()), open(&server.url()), Hand::at(&server).await);
    let all = ids(1_200);
    for id in &all {
        hand.tell(&format!("ZADD orchestrator:tasks 1 {id}")).await;
    }
    let (a, b) = tokio::join!(one.take(&all, "one", LONG), two.take(&all, "two", LONG));
    let (a, b) = (a.unwrap(), b.unwrap());
    let mut both = [a.clone(), b.clone()].concat();
    both.sort();
    assert_eq!(both, all);
    assert_eq!(one.take(&all, "one", LONG).await.unwrap(), Vec::<String>::new());
    assert_eq!(hand.ask::<usize>("SCARD orchestrator:tasks:processing").await, all.len());
    let taker = "HGET watchbill:{orchestrator:tasks}:takers";
    if let Some(id) = a.first() {
        assert_eq!(hand.ask::<String>(&format!("{taker} {id}")).await, "one");
    }
    if let Some(id) = b.first() {
        assert_eq!(hand.ask::<String>(&format!("{taker} {id}")).await, "two");
    }
}

#[tokio::test]
async fn what_is_not_settled_in_time_is_taken_again() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for id in ["a", "b"] {
        put(&mut hand, id, 1).await;
    }
    let short = Duration::from_millis(50);
    peer.take(&strings(&["a", "b"]), "one", short).await.unwrap();
    for _ in 0..2 {
        peer.ack(&strings(&["a"])).await.unwrap();
    }
    // As if the holder had died before it recorded that it works on it.
    hand.tell("SREM orchestrator:tasks:processing b").await;
    let again = until("the lease's end", async || {
        let again = peer.reclaim("two", LONG, 10).await.unwrap();
        (!again.is_empty()).then_some(again)
    });
    assert_eq!(again.await, ["b"]);
    assert_eq!(peer.reclaim("two", LONG, 10).await.unwrap(), Vec::<String>::new());
    let taker: String = hand.ask("HGET watchbill:{orchestrator:tasks}:takers b").await;
    assert_eq!(taker, "two");
    let mut working = peer.worked_on(0).await.unwrap();
    working.1.sort();
    assert_eq!(working, (0, strings(&["a", "b"])));
}

#[tokio::test]
async fn a_later_version_is_written_once() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    put(&mut hand, "a", 1).await;
    peer.take(&strings(&["a"]), "one", LONG).await.unwrap();
    let two = [write("a", 2, false), write("lost", 5, false)];
    assert_eq!(peer.write(&two).await.unwrap(), [WriteOutcome::Written, WriteOutcome::Lost]);
    assert_eq!(peer.write(&two).await.unwrap(), [WriteOutcome::Older, WriteOutcome::Older]);
    let task = "HMGET orchestrator:task:a data status updated_at priority";
    let kept: Vec<String> = hand.ask(task).await;
    assert_eq!(kept, [r#"{"version":2}"#, "in_progress", "2026-01-31T12:00:00Z", "P1"]);
    let lost: Vec<String> = hand.ask("HMGET orchestrator:task:lost created_at priority").await;
    assert_eq!(lost, ["2026-01-31T11:00:00Z", "P1"]);
    // After the end an older version comes: the task stays ended and out of the processing set.
    assert_eq!(peer.write(&[write("a", 9, true)]).await.unwrap(), [WriteOutcome::Written]);
    hand.tell("SADD orchestrator:tasks:processing a").await;
    assert_eq!(peer.write(&[write("a", 9, true)]).await.unwrap(), [WriteOutcome::Older]);
    assert_eq!(peer.write(&[write("a", 8, false)]).await.unwrap(), [WriteOutcome::Older]);
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:a status").await, "completed");
    assert_eq!(peer.worked_on(0).await.unwrap().1, Vec::<String>::new());
    assert_eq!(hand.ask::<u64>("ZCARD watchbill:{orchestrator:tasks}:taken").await, 0);
}

#[tokio::test]
async fn one_key_of_another_kind_does_not_hold_up_the_others() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("SET orchestrator:task:text hello").await;
    let writes = [write("text", 1, true), write("b", 1, true)];
    assert_eq!(peer.write(&writes).await.unwrap(), [WriteOutcome::Foreign, WriteOutcome::Lost]);
    assert_eq!(hand.ask::<String>("GET orchestrator:task:text").await, "hello");
}

#[tokio::test]
async fn what_is_rejected_is_kept_once_and_fails_whole() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for id in ["queued", "taken", "changed"] {
        put(&mut hand, id, 1).await;
    }
    hand.tell("HSET orchestrator:task:changed data {\"new\":1}").await;
    for id in ["missing", "bytes", "other"] {
        hand.tell(&format!("ZADD orchestrator:tasks 1 {id}")).await;
    }
    hand.tell("HSET orchestrator:task:other name x").await;
    let bytes = [&b"HSET"[..], b"orchestrator:task:bytes", b"data", b"\xff"];
    hand.try_ask::<()>(&bytes).await.unwrap();
    peer.take(&strings(&["taken"]), "one", LONG).await.unwrap();
    let mut heard = peer.listen(&strings(&["one", "all", "end"])).await.unwrap();
    for (member, wanted) in [
        ("queued", true),
        ("queued", false),
        ("taken", true),
        ("taken", false),
        ("never", false),
        ("changed", false),
        ("missing", true),
    ] {
        let done = peer.reject(&rejected(member.as_bytes()), &failure()).await.unwrap();
        assert_eq!(done, wanted, "{member}");
    }
    let bytes = Rejected { data: Some(b"\xff".into()), ..rejected(b"bytes") };
    assert!(peer.reject(&bytes, &failure()).await.unwrap());
    // Another value under a task's name: none of its data is known, and nothing is written to
    // it.
    let other = Rejected { data: None, ..rejected(b"other") };
    assert!(peer.reject(&other, &failure()).await.unwrap());
    assert_eq!(hand.ask::<u64>("HLEN orchestrator:task:other").await, 1);
    let kept: Vec<String> = hand.ask("LRANGE watchbill:rejected 0 -1").await;
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert!(kept[1].contains(r#""data_base64":"/w==""#), "{kept:?}");
    assert!(kept[3].contains(r#""member":"taken""#) && kept[3].contains("{}"), "{kept:?}");
    for id in ["queued", "taken", "bytes"] {
        let task = format!("HMGET orchestrator:task:{id} data status updated_at");
        let failed: Vec<String> = hand.ask(&task).await;
        assert_eq!(failed, ["{\"failed\":1}", "failed", "2026-01-31T12:00:00Z"]);
    }
    for nothing in ["never", "missing"] {
        assert_eq!(hand.ask::<u64>(&format!("EXISTS orchestrator:task:{nothing}")).await, 0);
    }
    // Clients receive each failure once, and nothing else.
    hand.tell("PUBLISH end x").await;
    for _ in 0..5 {
        assert_eq!(heard.next().await.unwrap(), failure().messages[0]);
        assert_eq!(heard.next().await.unwrap(), failure().messages[1]);
    }
    assert_eq!(heard.next().await.unwrap().channel, "end");
    // Its owner stored other data meanwhile, so it is read again.
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:changed status").await, "pending");
    hand.tell("ZREM orchestrator:tasks changed").await;
    assert_eq!(peer.depth().await.unwrap(), 0);
    assert_eq!(peer.worked_on(0).await.unwrap().1, Vec::<String>::new());
    assert_eq!(hand.ask::<u64>("ZCARD watchbill:{orchestrator:tasks}:taken").await, 0);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_given_again() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let all = ids(30);
    let writes: Vec<_> = all.iter().map(|id| write(id, 1, false)).collect();
    hand.tell("SCRIPT FLUSH").await;
    assert_eq!(peer.write(&writes).await.unwrap(), [WriteOutcome::Lost; 30]);
    let writes: Vec<_> = all.iter().map(|id| write(id, 2, false)).collect();
    hand.tell("SCRIPT FLUSH").await;
    assert_eq!(peer.write(&writes).await.unwrap(), [WriteOutcome::Written; 30]);
    put(&mut hand, "a", 1).await;
    hand.tell("SCRIPT FLUSH").await;
    assert_eq!(peer.take(&strings(&["a"]), "one", LONG).await.unwrap(), ["a"]);
}

#[tokio::test]
async fn a_key_of_another_kind_is_named_and_nothing_is_lost() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("SET orchestrator:tasks hello").await;
    let text = foreign(peer.peek(0, 10).await);
    assert!(text.contains("the key orchestrator:tasks in Redis at 127.0.0.1:"), "{text}");
    assert!(text.contains("is a string, not a zset"), "{text}");
    hand.tell("DEL orchestrator:tasks").await;
    for (key, makes) in [
        ("watchbill:{orchestrator:tasks}:taken", "SET"),
        ("watchbill:{orchestrator:tasks}:takers", "SET"),
        ("watchbill:rejected", "SET"),
        ("orchestrator:tasks:processing", "SET"),
    ] {
        put(&mut hand, "a", 1).await;
        hand.tell(&format!("{makes} {key} x")).await;
        let text = if key == "watchbill:rejected" {
            foreign(peer.reject(&rejected(b"a"), &failure()).await)
        } else {
            foreign(peer.take(&strings(&["a"]), "one", LONG).await)
        };
        assert!(text.contains(key), "{text}");
        let queued: Option<f64> = hand.ask("ZSCORE orchestrator:tasks a").await;
        let taken = match key.ends_with(":taken") {
            true => None,
            false => hand.ask("ZSCORE watchbill:{orchestrator:tasks}:taken a").await,
        };
        assert!(queued.or(taken).is_some(), "{key}: it is in the queue or has a lease");
        hand.tell("FLUSHALL").await;
    }
}
