//! Tests of the channels.

use std::time::Duration;

use watchbill_redis::keys::LegacyMessage;
use watchbill_testkit::RedisServer;

use super::fixture::{Hand, away, foreign, open, options, strings};

fn message(channel: &str, text: &str) -> LegacyMessage {
    LegacyMessage { channel: channel.into(), text: text.into() }
}

#[tokio::test]
async fn a_page_is_published_once() {
    let server = RedisServer::start();
    let peer = open(&server.url());
    let mut heard = peer.listen(&strings(&["orchestrator:events:*"])).await.unwrap();
    let page = [
        message("orchestrator:events:task.created", "one"),
        message("orchestrator:events:*", "one"),
        message("elsewhere", "not heard"),
    ];
    assert_eq!(peer.cursor("events").await.unwrap(), None);
    assert!(peer.publish("events", None, "1", &page).await.unwrap());
    // Repeated after a lost answer, or by a slower publisher.
    assert!(!peer.publish("events", None, "1", &page).await.unwrap());
    assert!(!peer.publish("events", Some("0"), "2", &page).await.unwrap());
    let last = [message("orchestrator:events:x", "two")];
    assert!(peer.publish("events", Some("1"), "2", &last).await.unwrap());
    assert_eq!(peer.cursor("events").await.unwrap().as_deref(), Some("2"));
    for expected in [&page[0], &page[1], &last[0]] {
        assert_eq!(heard.next().await.unwrap(), *expected);
    }
}

#[tokio::test]
async fn a_page_is_published_whole_or_not_at_all() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("RPUSH watchbill:cursor:events x").await;
    let mut heard = peer.listen(&strings(&["c"])).await.unwrap();
    let text = foreign(peer.publish("events", None, "1", &[message("c", "never")]).await);
    assert!(text.contains("watchbill:cursor:events") && text.contains("is a list"), "{text}");
    hand.tell("PUBLISH c now").await;
    assert_eq!(heard.next().await.unwrap(), message("c", "now"));
}

#[tokio::test]
async fn a_channel_that_is_refused_moves_no_cursor() {
    let server = RedisServer::start();
    let mut hand = Hand::at(&server).await;
    hand.tell("ACL SETUSER bridge on >pw ~* +@all resetchannels &allowed").await;
    let peer = open(&server.url().replace("redis://", "redis://bridge:pw@"));
    let text =
        super::fixture::refused(peer.publish("e", None, "1", &[message("other", "x")]).await);
    assert!(text.contains("ACL SETUSER") && !text.contains("pw"), "{text}");
    assert_eq!(peer.cursor("e").await.unwrap(), None);
    assert!(peer.publish("e", None, "1", &[message("allowed", "x")]).await.unwrap());
}

#[tokio::test]
async fn a_listener_notices_the_end() {
    let mut server = RedisServer::start();
    let peer = open(&server.url());
    let mut heard = peer.listen(&strings(&["*"])).await.unwrap();
    server.kill();
    let text = away(heard.next().await);
    assert!(text.contains("can't be reached"), "{text}");
    away(peer.listen(&strings(&["*"])).await.map(drop));
    server.restart();
    let mut heard = peer.listen(&strings(&["*"])).await.unwrap();
    Hand::at(&server).await.tell("PUBLISH c back").await;
    assert_eq!(heard.next().await.unwrap(), message("c", "back"));
}

#[tokio::test]
async fn a_listener_notices_silence_that_is_an_end() {
    let server = RedisServer::start();
    let mut quick = options();
    quick.idle_within = Duration::from_millis(50);
    quick.answer_within = Duration::from_millis(200);
    let peer = watchbill_redis::RedisKeys::open(&server.url(), quick).unwrap();
    let mut heard = peer.listen(&strings(&["*"])).await.unwrap();
    // Silence alone is no end: the listener pings and gets an answer.
    let waited = tokio::time::timeout(Duration::from_millis(500), heard.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    server.freeze();
    let noticed = tokio::time::timeout(Duration::from_secs(20), heard.next()).await;
    away(noticed.expect("it is noticed by itself"));
}
