//! Tests of a cluster, and of a master with a sentinel.

use std::time::Duration;

use watchbill_redis::keys::{Failure, LegacyMessage, Rejected, TaskOffer};
use watchbill_testkit::{RedisServer, RedisSetup};
use watchbill_wire::legacy::{Cost, CostOf, WriteOutcome};

use super::fixture::{Hand, foreign, ids, open, refused, strings, until};
use super::queue::write;

const LONG: Duration = Duration::from_secs(600);

/// Three masters that share the slots.
async fn cluster() -> (Vec<RedisServer>, String) {
    let nodes: Vec<_> = (0..3).map(|_| RedisSetup::new().cluster().start()).collect();
    let slots = ["0 5460", "5461 10922", "10923 16383"];
    let mut first = Hand::at(&nodes[0]).await;
    for (node, slots) in nodes.iter().zip(slots) {
        Hand::at(node).await.tell(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
        if node.port() != nodes[0].port() {
            first.tell(&format!("CLUSTER MEET 127.0.0.1 {}", node.port())).await;
        }
    }
    for node in &nodes {
        let mut hand = Hand::at(node).await;
        until("a cluster that is whole", async || {
            let info: String = hand.ask("CLUSTER INFO").await;
            let whole = info.contains("cluster_state:ok") && info.contains("cluster_size:3");
            whole.then_some(())
        })
        .await;
    }
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    (nodes, format!("redis+cluster://{}", hosts.join(",")))
}

#[tokio::test]
async fn a_cluster_serves_the_queue_the_channels_and_the_mirror() {
    let (nodes, url) = cluster().await;
    let peer = open(&url);
    peer.ping().await.unwrap();
    let all = ids(40);
    let offers: Vec<_> = all
        .iter()
        .map(|id| TaskOffer {
            id: id.clone(),
            score: 1.0,
            data: "{}".into(),
            status: "assigned".into(),
            created_at: "t".into(),
            priority: "P0".into(),
            assignment: 1,
        })
        .collect();
    peer.offer(&offers).await.unwrap();
    assert_eq!(peer.peek(0, 100).await.unwrap().len(), 40);
    assert_eq!(peer.read(&all).await.unwrap().len(), 40);
    assert_eq!(peer.take(&all, "one", LONG).await.unwrap(), all);
    peer.ack(&all).await.unwrap();
    let writes: Vec<_> = all.iter().map(|id| write(id, 2, true)).collect();
    for node in &nodes {
        Hand::at(node).await.tell("SCRIPT FLUSH").await;
    }
    assert_eq!(peer.write(&writes).await.unwrap(), [WriteOutcome::Written; 40]);
    assert_eq!(peer.write(&writes).await.unwrap(), [WriteOutcome::Older; 40]);
    assert_eq!(peer.worked_on(0).await.unwrap().1, Vec::<String>::new());
    peer.withdraw(&all).await.unwrap();
    assert_eq!(peer.offered().await.unwrap(), []);
    for _ in 0..2 {
        peer.approval_waits("ap", "{}").await.unwrap();
        peer.approval_decided("ap", "{}").await.unwrap();
        for sum in ["day", "a {b} c", "d} e"].map(|trace| CostOf::Trace(trace.into())) {
            let so_far = Cost { tokens: 5, usd: 0.5, requests: None };
            peer.add_cost(&sum, "acme", so_far).await.unwrap();
        }
    }
    let mut heard = peer.listen(&strings(&["orchestrator:events:*"])).await.unwrap();
    let message = LegacyMessage { channel: "orchestrator:events:x".into(), text: "{}".into() };
    for first in [true, false] {
        let page = std::slice::from_ref(&message);
        assert_eq!(peer.publish("events", None, "1", page).await.unwrap(), first);
    }
    assert_eq!(heard.next().await.unwrap(), message);
    let text = refused(peer.take_messages("devops", LONG, 1).await);
    assert!(text.contains("a cluster does not support domains"), "{text}");
}

#[tokio::test]
async fn what_a_cluster_can_not_do_in_one_step_loses_nothing() {
    let (nodes, url) = cluster().await;
    let peer = open(&url);
    let hand =
        redis::cluster::ClusterClient::new(nodes.iter().map(|node| node.url()).collect::<Vec<_>>());
    let mut hand = hand.unwrap().get_async_connection().await.unwrap();
    let mut add = redis::cmd("ZADD");
    add.arg("orchestrator:tasks").arg(1).arg("a");
    add.query_async::<()>(&mut hand).await.unwrap();
    let rejected = Rejected {
        queue: "orchestrator:tasks".into(),
        member: b"a".into(),
        reason: "no JSON".into(),
        data: None,
        at: "t".into(),
    };
    let failure = Failure { data: "{}".into(), messages: Vec::new() };
    for wanted in [true, false] {
        assert_eq!(peer.reject(&rejected, &failure).await.unwrap(), wanted);
    }
    let mut length = redis::cmd("LLEN");
    length.arg("watchbill:rejected");
    assert_eq!(length.query_async::<usize>(&mut hand).await.unwrap(), 1);
    assert_eq!(peer.depth().await.unwrap(), 0);
    let mut set = redis::cmd("SET");
    set.arg("orchestrator:tasks").arg("x");
    set.query_async::<()>(&mut hand).await.unwrap();
    let text = foreign(peer.depth().await);
    assert!(text.contains("orchestrator:tasks in Redis cluster at 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn a_plain_url_to_a_cluster_is_told_the_right_one() {
    let (nodes, _url) = cluster().await;
    let mut texts = Vec::new();
    for node in &nodes {
        texts.extend(open(&node.url()).depth().await.err().map(|error| error.to_string()));
    }
    assert_eq!(texts.len(), 2, "one of three has the queue: {texts:?}");
    assert!(texts[0].contains("is a cluster: use redis+cluster://"), "{texts:?}");
}

#[tokio::test]
async fn a_cluster_that_is_away_comes_back() {
    let (mut nodes, url) = cluster().await;
    let peer = open(&url);
    peer.depth().await.unwrap();
    // With one node frozen, its keys are unreachable, within the timeouts.
    nodes[1].freeze();
    let calls = async {
        let text = super::fixture::away(peer.read(&ids(30)).await);
        assert!(text.starts_with("Redis cluster at 127.0.0.1:"), "{text}");
        super::fixture::away(peer.read(&ids(30)).await);
    };
    tokio::time::timeout(Duration::from_secs(20), calls).await.expect("they end by themselves");
    nodes[1].thaw();
    until("the whole cluster", async || peer.read(&ids(30)).await.ok()).await;
    for node in &mut nodes {
        node.kill();
    }
    let text = super::fixture::away(peer.depth().await);
    assert!(text.starts_with("Redis cluster at 127.0.0.1:"), "{text}");
    for node in &mut nodes {
        node.restart();
    }
    until("the cluster", async || peer.depth().await.ok()).await;
}

#[tokio::test]
async fn a_sentinel_names_the_master_also_after_a_fail_over() {
    let mut master = RedisSetup::new().append_only().start();
    let replica = RedisSetup::new().replica_of(master.port()).start();
    let mut hand = Hand::at(&replica).await;
    until("a replica in step", async || {
        let info: String = hand.ask("INFO replication").await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let sentinel = RedisSetup::new().sentinel_of(master.port()).start();
    let mut watch = Hand::at(&sentinel).await;
    until("a sentinel that knows the replica", async || {
        let replicas: Vec<redis::Value> = watch.ask("SENTINEL replicas primary").await;
        (!replicas.is_empty()).then_some(())
    })
    .await;
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/primary", sentinel.port());
    let peer = open(&url);
    assert_eq!(peer.write(&[write("a", 1, false)]).await.unwrap(), [WriteOutcome::Lost]);
    let kept = async || hand.ask::<bool>("EXISTS orchestrator:task:a").await.then_some(());
    until("the replica has it", kept).await;
    let mut heard = peer.listen(&strings(&["c"])).await.unwrap();
    master.kill();
    super::fixture::away(heard.next().await);
    let wrote = until("a new master", async || peer.write(&[write("a", 2, false)]).await.ok());
    assert_eq!(wrote.await, [WriteOutcome::Written]);
    let master_now: String = Hand::at(&replica).await.ask("HGET orchestrator:task:a status").await;
    assert_eq!(master_now, "in_progress");
    // The old master comes back and is made a replica; nothing writes to it.
    master.restart();
    assert_eq!(peer.write(&[write("a", 3, false)]).await.unwrap(), [WriteOutcome::Written]);
    let unknown = open(&url.replace("/primary", "/other"));
    let text = super::fixture::away(unknown.ping().await);
    assert!(text.contains("does not know the master 'other'"), "{text}");
}

#[tokio::test]
async fn a_master_that_was_replaced_is_left_for_the_new_one() {
    let master = RedisServer::start();
    let replica = RedisSetup::new().replica_of(master.port()).start();
    let sentinel = RedisSetup::new().sentinel_of(master.port()).start();
    let mut watch = Hand::at(&sentinel).await;
    until("a sentinel that knows the replica", async || {
        let replicas: Vec<redis::Value> = watch.ask("SENTINEL replicas primary").await;
        (!replicas.is_empty()).then_some(())
    })
    .await;
    let peer = open(&format!("redis+sentinel://127.0.0.1:{}/primary", sentinel.port()));
    until("the master", async || peer.ping().await.ok()).await;
    // A failover by hand while our connection is open.
    let asked = async || watch.try_ask::<()>(&["SENTINEL", "FAILOVER", "primary"]).await.ok();
    until("a replica that is fit", asked).await;
    until("a master that was replaced", async || {
        // The sentinel closes all connections to it, so this opens a new one each time.
        let role: Vec<redis::Value> = Hand::at(&master).await.try_ask(&["ROLE"]).await.ok()?;
        (role[0] != redis::Value::BulkString(b"master".into())).then_some(())
    })
    .await;
    until("a write", async || peer.write(&[write("a", 7, false)]).await.ok()).await;
    let mut hand = Hand::at(&replica).await;
    assert_eq!(hand.ask::<u64>("HGET orchestrator:task:a watchbill_version").await, 7);
}

#[tokio::test]
async fn a_master_that_refuses_writes_is_not_taken_for_one() {
    let (master, other) = (RedisServer::start(), RedisServer::start());
    let sentinel = RedisSetup::new().sentinel_of(master.port()).start();
    let peer = open(&format!("redis+sentinel://127.0.0.1:{}/primary", sentinel.port()));
    peer.ping().await.unwrap();
    let mut hand = Hand::at(&master).await;
    hand.tell(&format!("REPLICAOF 127.0.0.1 {}", other.port())).await;
    // The connection stayed open, but its server is a replica now.
    let text = until("a replica in step", async || {
        let text = peer.write(&[write("a", 1, false)]).await.err()?.to_string();
        text.contains("read-only replica").then_some(text)
    });
    assert!(text.await.starts_with("Redis 'primary' of the sentinels at"));
    let text = super::fixture::away(peer.ping().await);
    assert!(text.contains("is not a master yet"), "{text}");
    hand.tell("REPLICAOF NO ONE").await;
    until("the master", async || peer.write(&[write("a", 1, false)]).await.ok()).await;
}

#[tokio::test]
async fn a_sentinel_may_ask_for_a_password_too() {
    let master = RedisSetup::new().password("s3cret").start();
    let sentinel = RedisSetup::new().password("s3cret").sentinel_of(master.port()).start();
    let place = format!("127.0.0.1:{}/primary/1", sentinel.port());
    let peer = open(&format!("redis+sentinel://:s3cret@{place}"));
    assert_eq!(peer.write(&[write("a", 1, false)]).await.unwrap(), [WriteOutcome::Lost]);
    let text = super::fixture::away(open(&format!("redis+sentinel://{place}")).ping().await);
    assert!(text.contains("NOAUTH"), "{text}");
}
