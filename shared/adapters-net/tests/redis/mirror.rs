//! What a peer's dashboards are shown.

use watchbill_core::ports::{Cost, PeerMirror as _};
use watchbill_testkit::RedisServer;

use super::bed::{Hand, foreign, open};

fn cost(tokens: u64, usd: f64, requests: Option<u64>) -> Cost {
    Cost { tokens, usd, requests }
}

#[tokio::test]
async fn an_approval_waits_and_is_decided_once() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("RPUSH hitl:history:list older").await;
    for _ in 0..2 {
        peer.approval_waits("ap", "{}").await.unwrap();
    }
    assert_eq!(hand.ask::<u64>("TTL hitl:pending:ap").await, 86_400);
    for _ in 0..2 {
        peer.approval_decided("ap", "{\"x\":1}").await.unwrap();
        let list: Vec<String> = hand.ask("LRANGE hitl:history:list 0 -1").await;
        assert_eq!(list, ["ap", "older"]);
    }
    assert_eq!(hand.ask::<u64>("EXISTS hitl:pending:ap").await, 0);
    assert_eq!(hand.ask::<String>("GET hitl:history:ap").await, "{\"x\":1}");
    assert_eq!(hand.ask::<u64>("TTL hitl:history:ap").await, 2_592_000);
}

#[tokio::test]
async fn the_history_keeps_a_thousand() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let words: Vec<String> = (0..1_000).map(|n| format!("old-{n}")).collect();
    hand.tell(&format!("RPUSH hitl:history:list {}", words.join(" "))).await;
    peer.approval_decided("ap", "{}").await.unwrap();
    assert_eq!(hand.ask::<usize>("LLEN hitl:history:list").await, 1_000);
    assert_eq!(hand.ask::<String>("LINDEX hitl:history:list 0").await, "ap");
    hand.tell("DEL hitl:history:list").await;
    hand.tell("SET hitl:history:list x").await;
    let text = foreign(peer.approval_decided("ap", "{}").await);
    assert!(text.contains("hitl:history:list"), "{text}");
}

#[tokio::test]
async fn a_period_has_its_sums() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for _ in 0..2 {
        peer.cost_of("2026-01-31", cost(10, 0.25, Some(2))).await.unwrap();
        peer.cost_of("2026-01-31-23", cost(5, 0.5, None)).await.unwrap();
    }
    let day: Vec<String> = hand.ask("HMGET cost:daily:2026-01-31 tokens usd requests").await;
    assert_eq!(day, ["10", "0.25", "2"]);
    let hour: Vec<Option<String>> =
        hand.ask("HMGET cost:hourly:2026-01-31-23 tokens usd requests").await;
    assert_eq!(hour, [Some("5".into()), Some("0.5".into()), None]);
    assert_eq!(hand.ask::<u64>("TTL cost:daily:2026-01-31").await, 90 * 86_400);
    assert_eq!(hand.ask::<u64>("TTL cost:hourly:2026-01-31-23").await, 8 * 86_400);
}

#[tokio::test]
async fn a_trace_adds_up_whatever_is_repeated() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    // Counted by the peer's own programs.
    hand.tell("HSET cost:task:tr tokens 100 usd 1 requests 1").await;
    for _ in 0..2 {
        peer.cost_of_task("tr", "a", cost(10, 0.1, Some(1))).await.unwrap();
        peer.cost_of_task("tr", "b", cost(1, 0.2, None)).await.unwrap();
    }
    for _ in 0..2 {
        peer.cost_of_task("tr", "a", cost(30, 0.3, Some(2))).await.unwrap();
    }
    let sums: Vec<f64> = hand.ask("HMGET cost:task:tr tokens usd requests").await;
    assert_eq!((sums[0], sums[2]), (131.0, 3.0));
    assert!((sums[1] - 1.5).abs() < 1e-9, "{sums:?}");
    assert_eq!(hand.ask::<u64>("TTL cost:task:tr").await, 90 * 86_400);
}
