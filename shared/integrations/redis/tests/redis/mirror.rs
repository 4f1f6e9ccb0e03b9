//! Tests of what legacy dashboards see.

use watchbill_testkit::RedisServer;
use watchbill_wire::legacy::{Cost, CostOf};

use super::fixture::{Hand, foreign, open, refused};

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
async fn an_approval_of_another_program_stays_as_it_is() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    for key in ["hitl:pending:ap", "hitl:history:ap"] {
        hand.tell(&format!("SET {key} theirs EX 500")).await;
    }
    for _ in 0..2 {
        assert!(!peer.approval_waits("ap", "{}").await.unwrap());
        assert!(!peer.approval_decided("ap", "{}").await.unwrap());
    }
    for key in ["hitl:pending:ap", "hitl:history:ap"] {
        assert_eq!(hand.ask::<String>(&format!("GET {key}")).await, "theirs");
        assert!(hand.ask::<u64>(&format!("TTL {key}")).await <= 500);
    }
    assert_eq!(hand.ask::<u64>("LLEN hitl:history:list").await, 0);
    // One that was ours and that they have overwritten.
    assert!(peer.approval_waits("other", "{}").await.unwrap());
    hand.tell("SET hitl:pending:other theirs").await;
    assert!(!peer.approval_waits("other", "{}").await.unwrap());
    assert!(peer.approval_decided("other", "{}").await.unwrap(), "nothing else is in the history");
    assert_eq!(hand.ask::<String>("GET hitl:pending:other").await, "theirs");
}

const DAY: u64 = 86_400;

fn day() -> CostOf {
    CostOf::Day("2026-01-31".into())
}

/// The sums as legacy programs read them.
async fn sums(hand: &mut Hand, key: &str) -> (u64, f64, u64) {
    let read: Vec<Option<String>> = hand.ask(&format!("HMGET {key} tokens usd requests")).await;
    let read: Vec<String> = read.into_iter().map(Option::unwrap_or_default).collect();
    let whole = |text: &str| text.parse().unwrap_or_else(|_| panic!("{key}: '{text}'"));
    (whole(&read[0]), read[1].parse().unwrap(), whole(&read[2]))
}

#[tokio::test]
async fn what_others_have_counted_is_added_to_and_never_lowered() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("HSET cost:daily:2026-01-31 tokens 1000 usd 9.5 requests 7").await;
    hand.tell("EXPIRE cost:daily:2026-01-31 600").await;
    // We have no cost yet, so nothing changes.
    peer.add_cost(&day(), "acme", cost(0, 0.0, None)).await.unwrap();
    assert_eq!(hand.ask::<u64>("DBSIZE").await, 1);
    for _ in 0..2 {
        peer.add_cost(&day(), "acme", cost(10, 0.25, None)).await.unwrap();
        assert_eq!(sums(&mut hand, "cost:daily:2026-01-31").await, (1_010, 9.75, 7));
    }
    // They continue counting; another tenant counts separately; an older report comes late.
    hand.tell("HINCRBY cost:daily:2026-01-31 tokens 100").await;
    peer.add_cost(&day(), "acme", cost(40, 0.75, None)).await.unwrap();
    peer.add_cost(&day(), "other", cost(5, 0.5, None)).await.unwrap();
    peer.add_cost(&day(), "acme", cost(10, 0.25, None)).await.unwrap();
    assert_eq!(sums(&mut hand, "cost:daily:2026-01-31").await, (1_145, 10.75, 7));
    let left: u64 = hand.ask("TTL cost:daily:2026-01-31").await;
    assert!((1..=600).contains(&left), "the expiry is its owner's: {left}");
    // Its owner starts again at zero: what was counted does not come back.
    hand.tell("DEL cost:daily:2026-01-31").await;
    peer.add_cost(&day(), "acme", cost(41, 0.75, None)).await.unwrap();
    assert_eq!(sums(&mut hand, "cost:daily:2026-01-31").await, (1, 0.0, 0));
}

/// An older build set the sums of days and hours to the cost here, and kept notes of tasks in
/// their sums.
#[tokio::test]
async fn what_an_older_build_has_counted_is_not_counted_again() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("HSET cost:daily:2026-01-31 tokens 40 usd 4").await;
    hand.tell("EXPIRE cost:daily:2026-01-31 7776000").await;
    peer.add_cost(&day(), "acme", cost(40, 4.0, None)).await.unwrap();
    peer.add_cost(&day(), "acme", cost(45, 4.5, None)).await.unwrap();
    assert_eq!(sums(&mut hand, "cost:daily:2026-01-31").await, (45, 4.5, 0));
    hand.tell("HSET cost:task:trace-1 tokens 30 usd 3 requests 2").await;
    let note = ["HSET", "cost:task:trace-1", "watchbill:task-1", "30 3 2"];
    hand.try_ask::<u64>(&note).await.unwrap();
    let trace = CostOf::Trace("trace-1".to_owned());
    peer.add_cost(&trace, "acme task-1", cost(31, 3.5, Some(3))).await.unwrap();
    peer.add_cost(&trace, "acme task-2", cost(5, 0.5, Some(1))).await.unwrap();
    assert_eq!(sums(&mut hand, "cost:task:trace-1").await, (36, 4.0, 4));
}

#[tokio::test]
async fn a_sum_that_begins_with_us_is_kept_as_its_owner_would() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let hour = CostOf::Hour("2026-01-31-23".into());
    for (sum, key, kept) in [
        (day(), "cost:daily:2026-01-31", 7 * DAY),
        (hour, "cost:hourly:2026-01-31-23", DAY),
        (CostOf::Trace("tr".into()), "cost:task:tr", 30 * DAY),
    ] {
        peer.add_cost(&sum, "acme", cost(5, 0.000_001, Some(1))).await.unwrap();
        assert_eq!(sums(&mut hand, key).await, (5, 0.000_001, 1));
        assert_eq!(hand.ask::<u64>(&format!("TTL {key}")).await, kept);
        let note = format!("watchbill:{{{key}}}:added");
        let left: u64 = hand.ask(&format!("TTL {note}")).await;
        assert!(left >= kept, "{note} is there for as long as the sum: {left}");
        hand.tell(&format!("EXPIRE {key} 50")).await;
        peer.add_cost(&sum, "acme", cost(6, 0.1, Some(1))).await.unwrap();
        assert!(hand.ask::<u64>(&format!("TTL {key}")).await <= 50);
    }
}

#[tokio::test]
async fn what_is_no_sum_is_refused_and_nothing_is_added_by_halves() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("HSET cost:daily:2026-01-31 tokens 5 usd much requests 1").await;
    for _ in 0..2 {
        refused(peer.add_cost(&day(), "acme", cost(10, 0.25, Some(1))).await);
    }
    let kept: Vec<String> = hand.ask("HMGET cost:daily:2026-01-31 tokens usd requests").await;
    assert_eq!(kept, ["5", "much", "1"]);
    hand.tell("HSET cost:daily:2026-01-31 usd 1").await;
    peer.add_cost(&day(), "acme", cost(10, 0.25, Some(1))).await.unwrap();
    assert_eq!(sums(&mut hand, "cost:daily:2026-01-31").await, (15, 1.25, 2));
    hand.tell("SET cost:task:tr x").await;
    let text = foreign(peer.add_cost(&CostOf::Trace("tr".into()), "a", cost(1, 0.0, None)).await);
    assert!(text.contains("cost:task:tr"), "{text}");
}

#[tokio::test]
async fn a_trace_adds_up_whatever_is_repeated() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    let trace = CostOf::Trace("tr {a} b".into());
    // Counted by legacy programs.
    let key = "cost:task:tr {a} b";
    let begun = ["HSET", key, "tokens", "100", "usd", "1", "requests", "1"];
    hand.try_ask::<()>(&begun).await.unwrap();
    for _ in 0..2 {
        peer.add_cost(&trace, "acme a", cost(10, 0.1, Some(1))).await.unwrap();
        peer.add_cost(&trace, "acme b", cost(1, 0.2, None)).await.unwrap();
    }
    for _ in 0..2 {
        peer.add_cost(&trace, "acme a", cost(30, 0.3, Some(2))).await.unwrap();
    }
    let sums: Vec<f64> = hand.try_ask(&["HMGET", key, "tokens", "usd", "requests"]).await.unwrap();
    assert_eq!((sums[0], sums[2]), (131.0, 3.0));
    assert!((sums[1] - 1.5).abs() < 1e-9, "{sums:?}");
}
