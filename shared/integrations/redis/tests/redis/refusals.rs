//! Tests of what a server refuses, and of the messages for people.

use std::time::Duration;

use watchbill_redis::RedisKeys;
use watchbill_testkit::{RedisServer, RedisSetup};

use super::fixture::{Hand, away, open, options, refused, strings, until};
use super::queue::write;

#[tokio::test]
async fn a_password_is_asked_for_and_never_shown() {
    let server = RedisSetup::new().password("s3cret").start();
    let plain = format!("redis://127.0.0.1:{}", server.port());
    let text = refused(open(&plain).ping().await);
    assert!(text.contains("requires a password") && text.contains("REDIS_URL"), "{text}");
    let text = refused(open(&format!("{plain}/1")).ping().await);
    assert!(text.contains("requires a password"), "{text}");
    let wrong = open(&plain.replace("redis://", "redis://:wr0ng@"));
    let text = refused(wrong.ping().await);
    assert!(text.contains("rejects this user and password"), "{text}");
    assert!(!text.contains("wr0ng") && !format!("{wrong:?}").contains("wr0ng"), "{text}");
    let nobody = refused(open(&plain.replace("redis://", "redis://who:s3cret@")).ping().await);
    assert!(nobody.contains("user and password") && !nobody.contains("s3cret"), "{nobody}");
    let right = open(&server.url());
    right.ping().await.unwrap();
    let shown = format!("{right:?}");
    assert!(!shown.contains("s3cret") && shown.contains("127.0.0.1"), "{shown}");
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let server = RedisServer::start();
    let mut hand = Hand::at(&server).await;
    hand.tell("ACL SETUSER bridge on >pw ~orchestrator:* +@all -zcard").await;
    let peer = open(&server.url().replace("redis://", "redis://bridge:pw@"));
    let text = refused(peer.depth().await);
    assert!(text.contains("denies this user ZCARD on orchestrator:tasks"), "{text}");
    let ids = strings(&["a"]);
    let text = refused(peer.take(&ids, "one", Duration::from_secs(1)).await);
    assert!(text.contains("watchbill:{orchestrator:tasks}:taken"), "{text}");
    assert!(text.contains("ACL SETUSER"), "{text}");
}

#[tokio::test]
async fn a_replica_is_told_from_its_master() {
    let master = RedisServer::start();
    let replica = RedisSetup::new().replica_of(master.port()).start();
    let peer = open(&replica.url());
    let in_step = async || {
        let text = peer.write(&[write("a", 1, false)]).await.unwrap_err().to_string();
        text.contains("read-only replica").then_some(text)
    };
    let text = until("a replica in step", in_step).await;
    assert!(text.contains("point REDIS_URL to the master") && text.contains("sentinel"), "{text}");
    refused(peer.write(&[write("a", 1, false)]).await);
}

#[tokio::test]
async fn memory_that_is_full_is_said_and_nothing_leaves_the_queue() {
    let server = RedisServer::start();
    let (peer, mut hand) = (open(&server.url()), Hand::at(&server).await);
    hand.tell("ZADD orchestrator:tasks 1 a").await;
    hand.tell("CONFIG SET maxmemory 1kb").await;
    let ids = strings(&["a"]);
    let text = refused(peer.take(&ids, "one", Duration::from_secs(1)).await);
    assert!(text.contains("out of memory (maxmemory)"), "{text}");
    refused(peer.write(&[write("a", 1, true)]).await);
    assert_eq!(peer.depth().await.unwrap(), 1, "it still stands there");
    hand.tell("CONFIG SET maxmemory 0").await;
    assert_eq!(peer.take(&ids, "one", Duration::from_secs(1)).await.unwrap(), ids);
}

#[tokio::test]
async fn full_from_the_start_with_the_setup_of_people() {
    let server = RedisSetup::new().max_memory("1kb").start();
    let text = refused(open(&server.url()).write(&[write("a", 1, true)]).await);
    assert!(text.contains("accepts no writes"), "{text}");
}

#[tokio::test]
async fn a_slot_that_no_node_has_is_told() {
    let node = RedisSetup::new().cluster().start();
    let mut hand = Hand::at(&node).await;
    hand.tell("CLUSTER ADDSLOTSRANGE 0 16383").await;
    let slot: u16 = hand.ask("CLUSTER KEYSLOT orchestrator:tasks").await;
    let peer = open(&node.url());
    until("a cluster that is whole", async || peer.depth().await.ok()).await;
    hand.tell(&format!("CLUSTER DELSLOTS {slot}")).await;
    hand.tell("CONFIG SET cluster-require-full-coverage no").await;
    let text = until("a slot without a node", async || peer.depth().await.err()).await.to_string();
    assert!(text.contains("CLUSTERDOWN"), "{text}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_said() {
    let server = RedisServer::start();
    let text = refused(open(&format!("{}/99", server.url())).ping().await);
    assert!(text.contains("has no database 99"), "{text}");
    open(&format!("{}/9", server.url())).ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_full_is_away() {
    let server = RedisSetup::new().line("maxclients 1").start();
    let _only = Hand::at(&server).await;
    let text = away(open(&server.url()).ping().await);
    assert!(text.contains("can't be reached") || text.contains("no more connections"), "{text}");
}

#[test]
fn a_url_that_cant_be_read_is_refused_at_once() {
    let text = refused(RedisKeys::open("redis://:s3cret@host:port", options()).map(drop));
    assert!(text.contains("is not a port") && !text.contains("s3cret"), "{text}");
    let mut with_file = options();
    with_file.ca_file = Some("no/such/file.pem".into());
    let text = refused(RedisKeys::open("rediss://host", with_file).map(drop));
    assert!(text.contains("REDIS_CA_FILE 'no/such/file.pem' can't be read"), "{text}");
    let mut with_file = options();
    with_file.ca_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into());
    let text = refused(RedisKeys::open("rediss://host", with_file).map(drop));
    assert!(text.contains("contains no certificate"), "{text}");
    for url in ["rediss://host", "rediss+cluster://host", "redis://host"] {
        let mut with_file = options();
        with_file.ca_file =
            Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redis/damaged.pem").into());
        let text = refused(RedisKeys::open(url, with_file).map(drop));
        assert!(text.contains("REDIS_CA_FILE '") && text.contains("PEM"), "{url}: {text}");
    }
}
