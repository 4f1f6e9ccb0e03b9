//! Scenario of tasks that cross the Redis bridge.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use watchbill_testkit::RedisServer;

use super::tasks::id;
use crate::bridge::queue;
use crate::e2e::{Backend, RedisSettings, Settings, World};
use crate::support::TIMEOUT_ON_AWS;

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A task that a client enqueues in Redis runs here and is finished there. An exported task
/// waits there for another worker, whose result is imported.
pub async fn tasks_of_the_legacy_queue_are_finished_there<B: Backend>() {
    let server = RedisServer::start();
    let redis = RedisSettings {
        url: server.url(),
        drain: "ops",
        feed: "bugfix",
        events: "out",
        mirror: "approvals,cost",
    };
    let world =
        World::<B>::start(Settings { gates_off: true, redis: Some(redis), ..Settings::default() });
    let world = world.await;
    let mut client = queue::connect(&server.url()).await;
    queue::enqueue(&mut client, 0..3).await;
    let fed = world.agent.submit(json!({"type": "bugfix", "payload": {"description": "a bug"}}));
    let fed = id(&fed.await);
    for task in (0..3).map(queue::id) {
        let data = until(&mut client, &task, "completed").await;
        assert!(data["metadata"]["result"].is_object(), "{data}");
        assert_eq!(world.user.task(&task).await["metadata"]["via"], "redis");
    }
    let mut data = until(&mut client, &fed, "assigned").await;
    assert_eq!(world.user.task(&fed).await["status"], "in_progress");
    data["status"] = json!("completed");
    data["metadata"]["result"] = json!({"fixed": true});
    let mut mark = redis::cmd("HSET");
    mark.arg(key(&fed)).arg("status").arg("completed").arg("data").arg(data.to_string());
    let _: u64 = mark.query_async(&mut client).await.expect("redis answers");
    let done = world.user.until(&fed, "completed").await;
    assert_eq!(done["metadata"]["result"], json!({"fixed": true}));
    world.end().await;
}

fn key(task: &str) -> String {
    format!("orchestrator:task:{task}")
}

/// The stored data of a task in Redis, once it has the wanted status.
async fn until(client: &mut MultiplexedConnection, task: &str, wanted: &str) -> Value {
    let mut seen = Vec::new();
    let came = tokio::time::timeout(TIMEOUT_ON_AWS, async {
        loop {
            let mut ask = redis::cmd("HMGET");
            ask.arg(key(task)).arg("status").arg("data");
            seen = ask.query_async::<Vec<Option<String>>>(client).await.expect("redis answers");
            if seen[0].as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    assert!(came.await.is_ok(), "{task} is not {wanted}: {seen:?}");
    serde_json::from_str(seen[1].as_deref().expect("it is kept")).expect("a task is JSON")
}
