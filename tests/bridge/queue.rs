//! The orchestrator's queue in Redis, as its programs fill and read it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

pub const QUEUE: &str = "orchestrator:tasks";
pub const PROCESSING: &str = "orchestrator:tasks:processing";
/// Ids that the bridge has claimed and not recorded yet.
pub const TAKEN: &str = "watchbill:{orchestrator:tasks}:taken";
/// Longer than a lease and than any timeout: no progress for this long is a fault.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Connects to a Redis, to read it and to enqueue tasks.
pub async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("an address");
    // A busy machine answers late; the default is half a second.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.expect("redis answers")
}

pub fn id(n: usize) -> String {
    format!("{n:08}-0d0a-4f3e-9a52-0e0c9f3f8a11")
}

pub fn data(id: &str, more: Value) -> String {
    let mut task = json!({
        "task_id": id, "type": "monitor", "priority": "P2", "source": "user",
        "status": "assigned", "payload": {"service": "system"}, "trace_id": format!("trace-{id}"),
        "sla": null, "assigned_to": "ops", "created_at": "2026-01-31T08:00:00.000000+00:00",
        "started_at": null, "completed_at": null, "parent_task_id": null, "child_task_ids": [],
        "metadata": {}, "error": null, "retry_count": 0, "max_retries": 3,
    });
    let Value::Object(more) = more else { panic!("fields over the task's") };
    task.as_object_mut().expect("it is one").extend(more);
    task.to_string()
}

/// Enqueues tasks as the orchestrator does.
pub async fn enqueue(redis: &mut MultiplexedConnection, numbers: std::ops::Range<usize>) {
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(500) {
        let mut pipe = redis::pipe();
        for n in some {
            let id = id(*n);
            put(&mut pipe, &id, &data(&id, json!({})));
        }
        pipe.exec_async(redis).await.expect("redis takes tasks");
    }
}

pub fn put(pipe: &mut redis::Pipeline, id: &str, data: &str) {
    pipe.cmd("HSET").arg(format!("orchestrator:task:{id}")).arg("data").arg(data);
    pipe.arg("status").arg("assigned").arg("created_at").arg("2026-01-31T08:00:00+00:00");
    pipe.arg("priority").arg("P2").ignore();
    pipe.cmd("ZADD").arg(QUEUE).arg(3).arg(id).ignore();
}

/// How many ids are queued, claimed and in process.
pub async fn left(redis: &mut MultiplexedConnection) -> redis::RedisResult<(u64, u64, u64)> {
    redis::pipe()
        .cmd("ZCARD")
        .arg(QUEUE)
        .cmd("ZCARD")
        .arg(TAKEN)
        .cmd("SCARD")
        .arg(PROCESSING)
        .query_async(redis)
        .await
}

/// Waits until nothing is left. Panics if there is no progress for `TIMEOUT`.
pub async fn drained(url: &str) {
    let mut redis = connect(url).await;
    let mut last = (0, 0, 0);
    loop {
        let moved = tokio::time::timeout(TIMEOUT, async {
            loop {
                let now = match left(&mut redis).await {
                    Ok(now) => now,
                    Err(_) => {
                        redis = connect(url).await;
                        continue;
                    }
                };
                if now != last || now == (0, 0, 0) {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        match moved.await {
            Ok((0, 0, 0)) => return,
            Ok(now) => last = now,
            Err(_) => panic!("no progress: {last:?} queued, claimed and in process"),
        }
    }
}

/// Counts the tasks by their status in Redis; `None` counts missing tasks.
pub async fn statuses(
    redis: &mut MultiplexedConnection,
    numbers: std::ops::Range<usize>,
) -> BTreeMap<Option<String>, usize> {
    let numbers: Vec<usize> = numbers.collect();
    let mut all = BTreeMap::new();
    for some in numbers.chunks(500) {
        let mut pipe = redis::pipe();
        for n in some {
            pipe.cmd("HMGET")
                .arg(format!("orchestrator:task:{}", id(*n)))
                .arg("status")
                .arg("data");
        }
        let rows: Vec<(Option<String>, Option<String>)> =
            pipe.query_async(redis).await.expect("redis answers");
        for (status, data) in rows {
            if let (Some(status), Some(data)) = (&status, &data) {
                let data: Value = serde_json::from_str(data).expect("JSON");
                assert_eq!(data["status"].as_str(), Some(status.as_str()), "{data}");
            }
            *all.entry(status).or_default() += 1;
        }
    }
    all
}

/// Panics unless each task ran here exactly once and completed.
pub fn ran_once(events: &[Value], ids: &BTreeSet<String>) {
    let mut runs = BTreeMap::<&str, [usize; 2]>::new();
    for event in events {
        let Some(id) = event["task_id"].as_str() else { continue };
        let runs = runs.entry(id).or_default();
        match event["event_type"].as_str() {
            Some("task.started") => runs[0] += 1,
            Some("task.completed") => runs[1] += 1,
            _ => {}
        }
    }
    let wrong: Vec<String> = ids
        .iter()
        .filter_map(|id| match runs.get(id.as_str()) {
            Some([1, 1]) => None,
            other => Some(format!("{id}: started and completed {other:?} times")),
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}: {:?}",
        wrong.len(),
        ids.len(),
        &wrong[..wrong.len().min(5)]
    );
}
