//! Tests of exporting our tasks to the shared queue.

use watchbill_redis::keys::TaskOffer;
use watchbill_testkit::RedisServer;
use watchbill_wire::legacy::LegacyTask;

use super::fixture::{Hand, foreign, ids, open, strings, until};

fn offer(id: &str, assignment: u32) -> TaskOffer {
    TaskOffer {
        id: id.into(),
        score: 2.0,
        data: format!("{{\"assignment\":{assignment}}}"),
        status: "assigned".into(),
        created_at: "2026-01-31T11:00:00Z".into(),
        priority: "P1".into(),
        assignment,
    }
}

/// Takes as legacy workers do: the most urgent task, without a record.
async fn pop(hand: &mut Hand) -> Option<String> {
    hand.ask::<Vec<String>>("ZPOPMIN orchestrator:tasks").await.into_iter().next()
}

#[tokio::test]
async fn an_assignment_is_put_into_the_queue_once() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for _ in 0..2 {
        peer.offer(&[offer("a", 1), offer("b", 1)]).await.unwrap();
        assert_eq!(peer.depth().await.unwrap(), 2);
    }
    assert_eq!(pop(&mut hand).await.as_deref(), Some("a"));
    hand.tell("HSET orchestrator:task:a status in_progress").await;
    peer.offer(&[offer("a", 1), offer("b", 1)]).await.unwrap();
    assert_eq!(peer.depth().await.unwrap(), 1, "a worker has a");
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:a status").await, "in_progress");
    peer.offer(&[offer("a", 2)]).await.unwrap();
    assert_eq!(peer.depth().await.unwrap(), 2);
    let read = peer.read(&strings(&["a"])).await.unwrap();
    let (data, status) = (r#"{"assignment":2}"#.into(), "assigned".into());
    assert_eq!(read, [LegacyTask::Found { data, status, fed: Some(2), written: false }]);
    let kept: Vec<String> = hand.ask("HMGET orchestrator:task:b created_at priority").await;
    assert_eq!(kept, ["2026-01-31T11:00:00Z", "P1"]);
}

#[tokio::test]
async fn what_stands_with_the_peer_is_known_with_its_age() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    assert_eq!(peer.offered().await.unwrap(), []);
    peer.offer(&[offer("a", 1), offer("b", 1)]).await.unwrap();
    hand.tell("ZINCRBY watchbill:{orchestrator:tasks}:fed -100 a").await;
    let offered = peer.offered().await.unwrap();
    assert_eq!((offered[0].0.as_str(), offered[1].0.as_str()), ("a", "b"));
    assert!((100..160).contains(&offered[0].1) && offered[1].1 < 60, "{offered:?}");
}

#[tokio::test]
async fn what_was_taken_and_never_begun_is_put_there_again() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    peer.offer(&[offer("a", 1)]).await.unwrap();
    let other = TaskOffer { data: "{\"other\":1}".into(), ..offer("a", 1) };
    for _ in 0..2 {
        peer.offer_again(&other).await.unwrap();
        assert_eq!(peer.depth().await.unwrap(), 1);
    }
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:a data").await, "{\"other\":1}");
    pop(&mut hand).await;
    hand.tell("ZINCRBY watchbill:{orchestrator:tasks}:fed -100 a").await;
    for _ in 0..2 {
        peer.offer_again(&offer("a", 1)).await.unwrap();
        assert_eq!(peer.depth().await.unwrap(), 1);
    }
    let young =
        until("a new age", async || (peer.offered().await.unwrap()[0].1 < 60).then_some(()));
    young.await;
    // Begun between the caller's check and its call.
    pop(&mut hand).await;
    hand.tell("HSET orchestrator:task:a status in_progress").await;
    peer.offer_again(&other).await.unwrap();
    assert_eq!(peer.depth().await.unwrap(), 0);
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:a data").await, r#"{"assignment":1}"#);
}

#[tokio::test]
async fn what_is_taken_back_leaves_the_queue_and_stays_readable() {
    let server = RedisServer::start();
    let peer = open(&server.url());
    let all = ids(1_100);
    let offers: Vec<_> = all.iter().map(|id| offer(id, 1)).collect();
    peer.offer(&offers).await.unwrap();
    assert_eq!(peer.depth().await.unwrap(), 1_100);
    for _ in 0..2 {
        peer.withdraw(&all[..1_099]).await.unwrap();
        let left = peer.offered().await.unwrap();
        assert_eq!((left.len(), &left[0].0), (1, &all[1_099]));
        assert_eq!(peer.depth().await.unwrap(), 1);
    }
    let read = peer.read(&all[..1]).await.unwrap();
    assert!(matches!(read[0], LegacyTask::Found { fed: Some(1), .. }), "{read:?}");
    peer.offer(&offers[..1]).await.unwrap();
    assert_eq!(peer.depth().await.unwrap(), 2, "what was taken back may be offered again");
}

#[tokio::test]
async fn what_bears_the_same_id_is_named_and_stays_as_it_is() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("SET orchestrator:task:a x").await;
    hand.tell("HSET orchestrator:task:b data theirs status assigned").await;
    for _ in 0..2 {
        let stands = peer.offer(&[offer("a", 1), offer("b", 1), offer("c", 1)]).await.unwrap();
        let why = |at: usize| stands[at].clone().unwrap_err();
        assert!(why(0).contains("orchestrator:task:a"), "{stands:?}");
        assert!(why(1).contains("orchestrator:task:b holds a task of another"), "{stands:?}");
        assert_eq!(stands[2], Ok(()));
        assert_eq!(peer.depth().await.unwrap(), 1, "no worker finds what it can't read");
    }
    assert_eq!(hand.ask::<String>("HGET orchestrator:task:b data").await, "theirs");
    assert_eq!(peer.offered().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_of_another_kind_is_named() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for key in ["fed", "fed:assignments"] {
        hand.tell("FLUSHALL").await;
        hand.tell(&format!("SET watchbill:{{orchestrator:tasks}}:{key} x")).await;
        let text = foreign(peer.offer(&[offer("a", 1)]).await);
        assert!(text.contains(key), "{text}");
        assert_eq!(peer.depth().await.unwrap(), 0);
    }
}
