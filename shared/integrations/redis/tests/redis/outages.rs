//! Tests of a server that is unreachable, freezes, or comes back.

use std::time::Duration;

use watchbill_redis::{RedisKeys, RedisOptions};
use watchbill_testkit::{RedisServer, RedisSetup};
use watchbill_wire::legacy::WriteOutcome;

use super::fixture::{away, open, options, until};
use super::queue::write;

fn quick() -> RedisOptions {
    let mut quick = options();
    quick.connect_within = Duration::from_millis(300);
    quick.answer_within = Duration::from_millis(300);
    quick
}

async fn back(peer: &RedisKeys) {
    until("the connection", async || peer.ping().await.ok()).await;
}

#[tokio::test]
async fn one_that_is_away_is_told_as_away_and_found_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let peer = open(&server.url());
    let text = away(peer.ping().await);
    assert!(text.starts_with(&format!("Redis at 127.0.0.1:{} can't be reached", server.port())));
    // During the backoff no attempt is made, and the error is known.
    assert_eq!(away(peer.ping().await), text);
    server.restart();
    back(&peer).await;
}

#[tokio::test]
async fn a_restart_between_two_calls_is_not_noticed() {
    let mut server = RedisSetup::new().append_only().start();
    let peer = open(&server.url());
    assert_eq!(peer.write(&[write("a", 1, false)]).await.unwrap(), [WriteOutcome::Lost]);
    server.restart();
    assert_eq!(peer.write(&[write("a", 2, false)]).await.unwrap(), [WriteOutcome::Written]);
    // As when a machine shuts down.
    server.stop();
    away(peer.ping().await);
    server.restart();
    back(&peer).await;
    assert_eq!(peer.write(&[write("a", 2, false)]).await.unwrap(), [WriteOutcome::Older]);
}

#[tokio::test]
async fn one_that_freezes_is_away_within_the_limit_and_answers_are_not_mixed_up() {
    let server = RedisServer::start();
    let peer = RedisKeys::open(&server.url(), quick()).unwrap();
    peer.write(&[write("a", 1, false)]).await.unwrap();
    server.freeze();
    let limit = Duration::from_secs(5);
    for _ in 0..2 {
        let call = tokio::time::timeout(limit, peer.write(&[write("a", 2, false)])).await;
        let text = away(call.expect("it ends by itself"));
        assert!(text.contains("did not respond in time"), "{text}");
    }
    server.thaw();
    back(&peer).await;
    // The earlier request was processed after all, and no other call gets its answer.
    assert_eq!(peer.depth().await.unwrap(), 0);
    assert_eq!(peer.write(&[write("a", 2, false)]).await.unwrap(), [WriteOutcome::Older]);
}

#[tokio::test]
async fn many_callers_share_one_connection_and_one_pause() {
    let mut server = RedisServer::start();
    let peer = open(&server.url());
    server.kill();
    let calls = (0..50).map(|_| peer.ping());
    for result in futures_util::future::join_all(calls).await {
        away(result);
    }
    server.restart();
    back(&peer).await;
    let ids = super::fixture::ids(50);
    let writes = ids.iter().map(|id| {
        let peer = &peer;
        async move { peer.write(&[write(id, 1, false)]).await }
    });
    for result in futures_util::future::join_all(writes).await {
        assert_eq!(result.unwrap(), [WriteOutcome::Lost]);
    }
    let mut hand = super::fixture::Hand::at(&server).await;
    let clients: String = hand.ask("CLIENT LIST TYPE normal").await;
    assert_eq!(clients.lines().count(), 2, "ours and the hand's: {clients}");
}
