//! The bridge and the Redis server fail in every way, under load.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use serde_json::json;
use watchbill_testkit::{RedisServer, RedisSetup};

use super::queue::{self, connect, drained, enqueue, ran_once, statuses};
use super::{Process, World, number};
use crate::support::{Cable, Client, KEYS, Launch, Stopwatch};

/// Default numbers of rounds and tasks.
const ROUNDS: usize = 12;
const TASKS: usize = 1_200;
/// Milliseconds from a bridge's start to its kill.
const KILL: (u64, u64) = (20, 220);

const DRAIN: [(&str, &str); 2] = [("REDIS_DRAIN", "ops"), ("WATCHBILL_GATES", "off")];

fn ids(tasks: usize) -> BTreeSet<String> {
    (0..tasks).map(queue::id).collect()
}

/// Every task completed in Redis, each ran here once, and no task is left claimed or in process.
async fn assert_all_ran_once(world: &World, url: &str, tasks: usize) {
    drained(url).await;
    let mut redis = connect(url).await;
    let statuses = statuses(&mut redis, 0..tasks).await;
    assert_eq!(
        statuses,
        [(Some("completed".to_owned()), tasks)].into(),
        "{}",
        world.launch.said("stderr")
    );
    ran_once(&world.events().await, &ids(tasks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeatedly_killed_bridge_loses_and_repeats_no_task() {
    let (rounds, tasks) = (number("WATCHBILL_ROUNDS", ROUNDS), number("WATCHBILL_TASKS", TASKS));
    let mut seed = number("WATCHBILL_SEED", RandomState::new().hash_one(0) as u32 as usize) as u64;
    println!("bridge: WATCHBILL_SEED={seed} WATCHBILL_ROUNDS={rounds} WATCHBILL_TASKS={tasks}");
    let redis = RedisServer::start();
    let url = redis.url();
    // The bundle is not configured for Redis; the bridge is a separate process.
    let folder = tempfile::tempdir().expect("a folder for the test");
    let launch = Launch::quiet(folder.path()).env("WATCHBILL_GATES", "off");
    let server = Some(launch.start().await);
    let agent = Client::new(&launch.url(), KEYS.agent);
    let world = World { redis, launch, server, agent, folder };
    let (backend, folder) = (world.launch.url(), world.folder.path().to_owned());
    let mut client = connect(&url).await;
    enqueue(&mut client, 0..tasks).await;
    let watch = Stopwatch::start();
    let mut busy = 0;
    for _ in 0..rounds {
        let bridge = Process::start(&url, &backend, &folder, &[("REDIS_DRAIN", "ops")]);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let within = KILL.0 + (seed >> 33) % (KILL.1 - KILL.0);
        tokio::time::sleep(Duration::from_millis(within)).await;
        bridge.kill().await;
        let left = queue::left(&mut client).await.expect("redis answers");
        busy += usize::from(left.1 + left.2 > 0);
    }
    println!(
        "bridge: {rounds} kills in {:.1?}, {busy} with tasks claimed or in process",
        watch.elapsed()
    );
    let bridge = Process::start(&url, &backend, &folder, &[("REDIS_DRAIN", "ops")]);
    assert_all_ran_once(&world, &url, tasks).await;
    bridge.kill().await;
    println!("bridge: {tasks} tasks ended after {:.1?}", watch.elapsed());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_killed_with_its_bridge_ends_every_task() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let mut world = World::start(&DRAIN).await;
    let url = world.url();
    enqueue(&mut connect(&url).await, 0..tasks).await;
    // No more often than a run may be lost before its task is given up.
    for round in 0..number("WATCHBILL_ROUNDS", ROUNDS).clamp(3, 5) {
        tokio::time::sleep(Duration::from_millis(40 + 30 * (round as u64 % 5))).await;
        world.server.take().expect("it runs").kill().await;
        world.server = Some(world.launch.start().await);
    }
    drained(&url).await;
    let mut redis = connect(&url).await;
    assert_eq!(
        statuses(&mut redis, 0..tasks).await,
        [(Some("completed".to_owned()), tasks)].into()
    );
    // A run that died with its process is started again; none ends twice.
    let events = world.events().await;
    let mut ended = BTreeSet::new();
    for event in events.iter().filter(|event| event["event_type"] == "task.completed") {
        assert!(ended.insert(event["task_id"].to_string()), "ended twice: {event}");
    }
    world.end().await;
}

/// Enqueues tasks gradually while `trouble` runs.
async fn under_load<F: Future<Output = ()>>(url: &str, tasks: usize, trouble: F) {
    let (url, step) = (url.to_owned(), (tasks / 40).max(1));
    let load = tokio::spawn(async move {
        let mut next = 0;
        while next < tasks {
            let until = (next + step).min(tasks);
            put_surely(&url, next..until).await;
            next = until;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    });
    trouble.await;
    load.await.expect("all tasks are enqueued");
}

/// Enqueues like a client that retries until its server is available.
async fn put_surely(url: &str, numbers: std::ops::Range<usize>) {
    loop {
        let client = redis::Client::open(url).expect("an address");
        let wait = Duration::from_secs(2);
        let try_it = async {
            let mut redis = client.get_multiplexed_async_connection().await?;
            let mut pipe = redis::pipe();
            for n in numbers.clone() {
                let id = queue::id(n);
                queue::put(&mut pipe, &id, &queue::data(&id, json!({})));
            }
            pipe.exec_async(&mut redis).await
        };
        if let Ok(Ok(())) = tokio::time::timeout(wait, try_it).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_continues_after_a_server_restart() {
    let redis = RedisSetup::new().append_only().start();
    let url = redis.url();
    let mut world = World::beside(redis, &url, &DRAIN).await;
    // Enqueued before: a client that enqueues while the server dies can't know the outcome.
    let tasks = number("WATCHBILL_TASKS", TASKS);
    enqueue(&mut connect(&url).await, 0..tasks).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        world.redis.restart();
    }
    assert_all_ran_once(&world, &url, tasks).await;
    let health = world.health_until("connected", |health| health["redis"] == "connected").await;
    assert!(health["redis_bridge"]["trouble"].is_null(), "{health}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_delays_tasks_and_loses_none() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let world = World::start(&DRAIN).await;
    let url = world.url();
    enqueue(&mut connect(&url).await, 0..tasks).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    world.redis.freeze();
    world.health_until("unreachable", |health| health["redis"] == "unreachable").await;
    // The bundle itself keeps working meanwhile.
    let task = world.agent.submit(json!({"type": "monitor", "payload": {}})).await;
    world.agent.until(task["task_id"].as_str().expect("an id"), "completed").await;
    tokio::time::sleep(Duration::from_secs(number("WATCHBILL_FROZEN", 8) as u64)).await;
    world.redis.thaw();
    assert_all_ran_once(&world, &url, tasks).await;
    world.health_until("connected", |health| health["redis"] == "connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_are_loaded_again() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let world = World::start(&DRAIN).await;
    let url = world.url();
    under_load(&url, tasks, async {
        let mut redis = connect(&url).await;
        for _ in 0..100 {
            let flushed: redis::RedisResult<()> =
                redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut redis).await;
            flushed.expect("redis flushes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_all_ran_once(&world, &url, tasks).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeatedly_cut_connection_loses_and_repeats_no_task() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let redis = RedisServer::start();
    let url = redis.url();
    let cable = Cable::to(redis.port()).await;
    let through = format!("redis://127.0.0.1:{}", cable.port);
    let world = World::beside(redis, &through, &DRAIN).await;
    under_load(&url, tasks, async {
        for round in 0..number("WATCHBILL_ROUNDS", ROUNDS) * 2 {
            tokio::time::sleep(Duration::from_millis(20 + (round as u64 * 7) % 40)).await;
            match round % 4 {
                3 => {
                    cable.pull();
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    cable.mend();
                }
                _ => cable.cut(),
            }
        }
    })
    .await;
    assert_all_ran_once(&world, &url, tasks).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_every_task_that_redis_kept_is_finished() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let mut master = RedisServer::start();
    let replica = RedisSetup::new().replica_of(master.port()).start();
    let sentinel = RedisSetup::new().sentinel_of(master.port()).start();
    let (old, new) = (master.url(), replica.url());
    replicated(&new).await;
    let url = format!("redis+sentinel://127.0.0.1:{}/primary", sentinel.port());
    let spare = RedisServer::start();
    let world = World::beside(spare, &url, &DRAIN).await;
    world.health_until("connected", |health| health["redis"] == "connected").await;
    enqueue(&mut connect(&old).await, 0..tasks).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    master.kill();
    promoted(&new).await;
    drained(&new).await;
    let mut redis = connect(&new).await;
    let statuses = statuses(&mut redis, 0..tasks).await;
    let done = statuses.get(&Some("completed".to_owned())).copied().unwrap_or_default();
    let lost = statuses.get(&None).copied().unwrap_or_default();
    println!("failover: {tasks} tasks, {lost} lost by Redis, {done} finished");
    assert_eq!(done + lost, tasks, "{statuses:?}");
    // No task that was imported ran twice, however often Redis reported it.
    let events = world.events().await;
    let mut runs = BTreeSet::new();
    for event in events.iter().filter(|event| event["event_type"] == "task.started") {
        assert!(runs.insert(event["task_id"].to_string()), "run twice: {event}");
    }
    let health = world.health().await;
    println!("failover: {}", health["redis_bridge"]);
    world.end().await;
    drop((sentinel, replica));
}

/// Waits until the replica has its master's data.
async fn replicated(replica: &str) {
    role(replica, |role| role[0] == "slave" && role[3] == "connected").await;
}

async fn promoted(replica: &str) {
    role(replica, |role| role[0] == "master").await;
}

async fn role(url: &str, wanted: impl Fn(&[String]) -> bool) {
    let came = tokio::time::timeout(super::TIMEOUT, async {
        loop {
            // A server that changes its role closes its connections.
            let mut redis = connect(url).await;
            while let Ok(redis::Value::Array(parts)) =
                redis::cmd("ROLE").query_async(&mut redis).await
            {
                let word = |part| redis::from_redis_value(part).unwrap_or_default();
                let words: Vec<String> = parts.into_iter().map(word).collect();
                if wanted(&words) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    assert!(came.await.is_ok(), "the replica does not reach the wanted role");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bridges_at_once_take_each_task_once() {
    let tasks = number("WATCHBILL_TASKS", TASKS);
    let world = World::start(&DRAIN).await;
    let url = world.url();
    let (backend, folder) = (world.launch.url(), world.folder.path().to_owned());
    let other = Process::start(&url, &backend, &folder, &[("REDIS_DRAIN", "ops")]);
    under_load(&url, tasks, async {}).await;
    assert_all_ran_once(&world, &url, tasks).await;
    other.kill().await;
    world.end().await;
}
