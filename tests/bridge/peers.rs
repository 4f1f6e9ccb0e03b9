//! Each direction of the bridge, with the other programs on the other side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::queue::{self, PROCESSING};
use super::{TIMEOUT, World};
use crate::support::{KEYS, Peer};

const ORCHESTRATOR: &str = "orchestrator.py";
const DOMAIN: &str = "domain.py";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_task_is_run_here_and_its_client_sees_it() {
    // The slow service runs on this machine.
    let settings = [("REDIS_DRAIN", "ops"), ("PROBE_ALLOW_PRIVATE", "true")];
    let world = World::start(&settings).await;
    let url = world.url();
    let hearing = Peer::ready(ORCHESTRATOR, &url, &["listen", "--seconds", "8"]).await;
    // A service that does not answer while it is open, so that the run can be observed.
    let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let id = "client-1";
    let said = Peer::run(ORCHESTRATOR, &url, &["publish", "--wait", "20", "--count", "5"]).await;
    assert_eq!(said.len(), 5, "{said:?}");
    for one in &said {
        let task = &one["task"];
        assert_eq!(task["status"], "completed", "{one}");
        assert!(task["metadata"]["result"].is_object(), "{one}");
        assert!(task["started_at"].is_string() && task["completed_at"].is_string(), "{one}");
        // It is the same task here.
        let here = world.agent.task(one["task_id"].as_str().expect("an id")).await;
        assert_eq!(
            (&here["status"], &here["metadata"]["via"]),
            (&json!("completed"), &json!("redis"))
        );
    }
    // A task that takes long is seen in progress.
    let mut redis = queue::connect(&url).await;
    let port = slow.local_addr().expect("it is bound").port();
    let payload = json!({"payload": {"url": format!("http://127.0.0.1:{port}/")}});
    let mut pipe = redis::pipe();
    queue::put(&mut pipe, id, &queue::data(id, payload));
    pipe.exec_async(&mut redis).await.expect("redis takes tasks");
    until_status(&mut redis, id, "in_progress").await;
    drop(slow);
    until_status(&mut redis, id, "completed").await;
    let heard = hearing.ended().await;
    let mut kinds = BTreeMap::<&str, usize>::new();
    for event in &heard {
        assert_eq!(event["channel"], "orchestrator:events:*");
        *kinds.entry(event["event"]["event_type"].as_str().expect("a type")).or_default() += 1;
    }
    // Created by the client, which reported that; run by us.
    assert_eq!(kinds.get("task.created"), Some(&5), "{kinds:?}");
    assert_eq!(kinds.get("task.started"), Some(&6), "{kinds:?}");
    assert_eq!(kinds.get("task.completed"), Some(&6), "{kinds:?}");
    queue::drained(&url).await;
    world.end().await;
}

pub(super) async fn until_status(
    redis: &mut redis::aio::MultiplexedConnection,
    id: &str,
    wanted: &str,
) {
    let mut last: Option<String> = None;
    let came = tokio::time::timeout(TIMEOUT, async {
        loop {
            let key = format!("orchestrator:task:{id}");
            let asked = redis::cmd("HGET").arg(key).arg("status").query_async(redis).await;
            last = asked.expect("redis answers");
            if last.as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let came = came.await.is_ok();
    assert!(came, "{id} is {last:?}, not {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_task_is_run_by_their_worker_and_its_result_is_imported() {
    let feed = [("REDIS_FEED", "bugfix,agent:faq"), ("WATCHBILL_GATES", "off")];
    let world = World::start(&feed).await;
    let url = world.url();
    let worker =
        Peer::ready(ORCHESTRATOR, &url, &["work", "--name", "dev", "--seconds", "12"]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let task = json!({"type": "bugfix", "payload": {"issue": n, "n": n}, "source": "pager"});
        ids.push(world.agent.submit(task).await["task_id"].as_str().expect("an id").to_owned());
    }
    for (n, id) in ids.iter().enumerate() {
        let task = world.agent.until(id, "completed").await;
        assert_eq!(task["metadata"]["result"], json!({"success": true, "by": "dev", "n": n}));
    }
    // A failure of their worker is imported too.
    let failing =
        Peer::ready(ORCHESTRATOR, &url, &["work", "--name", "faq", "--seconds", "6", "--fail"])
            .await;
    let task = world.agent.submit(json!({"type": "faq", "payload": {"question": "why?"}})).await;
    let id = task["task_id"].as_str().expect("an id");
    let task = world.agent.until(id, "failed").await;
    assert_eq!(task["error"], "the worker could not");
    // A task that is cancelled here is removed from their queue.
    worker.ended().await;
    failing.ended().await;
    let task = world.agent.submit(json!({"type": "bugfix", "payload": {}})).await;
    let id = task["task_id"].as_str().expect("an id").to_owned();
    let mut redis = queue::connect(&url).await;
    until_status(&mut redis, &id, "assigned").await;
    world.agent.post(&format!("/tasks/{id}/cancel"), json!({"reason": "not needed"})).await.ok();
    until_status(&mut redis, &id, "cancelled").await;
    queue::drained(&url).await;
    let health = world.health().await;
    assert_eq!(health["redis_bridge"]["fed"], 7, "{health}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_message_is_answered_in_its_own_format() {
    let mut world = World::start(&[("REDIS_DOMAINS", "devops")]).await;
    let url = world.url();
    let said = Peer::run(DOMAIN, &url, &["publish", "--wait", "20", "--priority", "low"]).await;
    let answer = &said[0];
    let result = &answer["result"];
    assert_eq!(result["status"], "failed", "{answer}");
    let error = result["error"].as_str().expect("an error");
    assert!(error.starts_with("blocked: "), "{answer}");
    assert_eq!(result["output"]["workers_used"], json!([]), "{answer}");
    assert_eq!(answer["notified"]["task_id"], answer["task_id"], "{answer}");
    assert_eq!(answer["notified"]["status"], "failed");
    let logs = answer["logs"].as_array().expect("logs");
    assert!(logs.iter().all(|line| line.as_str().is_some_and(|line| line.starts_with('['))));
    assert!(!logs.is_empty());
    let here = world.agent.task(answer["task_id"].as_str().expect("an id")).await;
    assert_eq!((&here["type"], &here["priority"]), (&json!("devops"), &json!("P3")));
    let mut redis = queue::connect(&url).await;
    let active: u64 = redis::cmd("LLEN")
        .arg("tasks:active:devops")
        .query_async(&mut redis)
        .await
        .expect("redis answers");
    assert_eq!(active, 0, "its message is removed by its exact bytes");

    let found = Peer::run(DOMAIN, &url, &["find"]).await;
    let [domain] = found[0].as_array().expect("a list").as_slice() else { panic!("{found:?}") };
    assert_eq!(domain["healthy"], true, "{domain}");
    assert_eq!(domain["info"]["role"], "domain");
    assert_eq!(domain["sets"], json!(["agents:all", "agents:domains"]));
    let ttl = domain["ttl"].as_u64().expect("it runs out");
    assert!((1..=30).contains(&ttl), "{domain}");
    // After a kill its registration expires within 30 s; no cleanup is needed.
    world.server.take().expect("it runs").kill().await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    let found = Peer::run(DOMAIN, &url, &["find"]).await;
    assert_eq!(found[0][0]["healthy"], false, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_cross_once_each_way_without_an_echo() {
    let world = World::start(&[("REDIS_EVENTS", "in,out"), ("REDIS_DRAIN", "ops")]).await;
    let url = world.url();
    world.health_until("connected", |health| health["redis"] == "connected").await;
    let hearing = Peer::ready(ORCHESTRATOR, &url, &["listen", "--seconds", "25"]).await;
    // The bridge is subscribed by then: it does not receive earlier events.
    let published = Peer::run(ORCHESTRATOR, &url, &["tell", "--count", "1000"]).await;
    for n in 0..1000 {
        let event =
            json!({"event_type": "deploy.failed", "source_agent": "ops", "payload": {"n": n}});
        world.agent.post("/events/publish", event).await.ok();
    }
    let heard = hearing.ended().await;
    let (mut theirs, mut ours) = (BTreeMap::<String, usize>::new(), BTreeMap::<u64, usize>::new());
    for event in heard {
        let event = &event["event"];
        match event["event_type"].as_str() {
            Some("deploy.succeeded") => {
                *theirs.entry(event["event_id"].to_string()).or_default() += 1
            }
            Some("deploy.failed") => {
                *ours.entry(event["payload"]["n"].as_u64().expect("a number")).or_default() += 1;
            }
            // The daily seal of the ledger.
            Some("audit.sealed") => {}
            other => panic!("{other:?}: {event}"),
        }
    }
    assert_eq!((theirs.len(), ours.len()), (1000, 1000));
    assert!(theirs.values().chain(ours.values()).all(|times| *times == 1), "an echo");
    let here = world.events().await;
    let of = |kind: &str| here.iter().filter(|event| event["event_type"] == kind).count();
    assert_eq!((of("deploy.succeeded"), of("deploy.failed")), (1000, 1000));
    assert_eq!(published.len(), 1000);
    let report = world.health().await["redis_bridge"].clone();
    assert_eq!(report["events_in"], 1000, "{report}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_are_exported_once() {
    let world = World::start(&[("REDIS_EVENTS", "out")]).await;
    let url = world.url();
    world.health_until("connected", |health| health["redis"] == "connected").await;
    let hearing = Peer::ready(ORCHESTRATOR, &url, &["listen", "--seconds", "8"]).await;
    // More than fits into one step, as each event has a copy; together they fill one page.
    world.redis.freeze();
    for n in 0..40 {
        let payload = json!({"n": n, "text": "x".repeat(80_000)});
        let event =
            json!({"event_type": "deploy.failed", "source_agent": "ops", "payload": payload});
        world.agent.post("/events/publish", event).await.ok();
    }
    world.events().await;
    world.redis.thaw();
    let heard = hearing.ended().await;
    let failed = heard.iter().filter(|event| event["event"]["event_type"] == "deploy.failed");
    let mut numbers: Vec<u64> =
        failed.map(|event| event["event"]["payload"]["n"].as_u64().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_apply_to_imported_tasks_and_approvals_are_mirrored() {
    let settings = [("REDIS_DRAIN", "ops"), ("REDIS_MIRROR", "approvals,cost")];
    let world = World::start(&settings).await;
    let url = world.url();
    let said = Peer::run(ORCHESTRATOR, &url, &["publish", "--priority", "P1"]).await;
    let id = said[0]["task_id"].as_str().expect("an id").to_owned();
    let mut redis = queue::connect(&url).await;
    until_status(&mut redis, &id, "pending").await;
    let approval = format!("approval_{id}");
    let waiting = until_key(&mut redis, &format!("hitl:pending:{approval}")).await;
    assert_eq!((&waiting["status"], &waiting["priority"]), (&json!("pending"), &json!("P1")));
    let approver = world.agent.with_key(KEYS.approver);
    approver.post(&format!("/approvals/{approval}/approve"), json!({})).await.ok();
    until_status(&mut redis, &id, "completed").await;
    let decided = until_key(&mut redis, &format!("hitl:history:{approval}")).await;
    assert_eq!(
        (&decided["status"], &decided["approved_by"]),
        (&json!("approved"), &json!("approver"))
    );
    let (pending, list): (bool, Vec<String>) = redis::pipe()
        .cmd("EXISTS")
        .arg(format!("hitl:pending:{approval}"))
        .cmd("LRANGE")
        .arg("hitl:history:list")
        .arg(0)
        .arg(-1)
        .query_async(&mut redis)
        .await
        .expect("redis answers");
    assert_eq!((pending, list), (false, vec![approval]));
    let worked_on: u64 =
        redis::cmd("SCARD").arg(PROCESSING).query_async(&mut redis).await.expect("redis answers");
    assert_eq!(worked_on, 0);
    let day = &chrono_day();
    let sums: BTreeMap<String, String> = redis::cmd("HGETALL")
        .arg(format!("cost:daily:{day}"))
        .query_async(&mut redis)
        .await
        .expect("redis answers");
    assert!(sums.is_empty(), "no cost is mirrored, because nothing was spent: {sums:?}");
    world.end().await;
}

/// A dashboard of theirs, which treats a missing field as an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dashboard_reads_approvals_by_their_fields() {
    let world = World::start(&[("REDIS_MIRROR", "approvals")]).await;
    let (url, http) = (world.url(), world.launch.url());
    let body = json!({"type": "deploy", "payload": {"project": "shop"}, "priority": "P0"});
    let task = world.agent.submit(body).await;
    let task = task["task_id"].as_str().expect("an id");
    let arguments = ["--task", task, "--http", &http, "--key", KEYS.approver];
    let said = Peer::run("approvals.py", &url, &arguments).await;
    for (said, status) in said.iter().zip(["pending", "approved"]) {
        for place in ["redis", "http"] {
            let read = &said[place];
            let approver = if status == "approved" { json!("approver") } else { Value::Null };
            assert_eq!(
                (&read["task_id"], &read["task_type"], &read["priority"], &read["status"]),
                (&json!(task), &json!("deploy"), &json!("P0"), &json!(status)),
                "{place}: {read}"
            );
            assert_eq!(read["approver"], approver, "{place}: {read}");
        }
        assert_eq!(said["redis"]["reason"], said["http"]["reason"], "{said}");
    }
    assert_eq!(said.len(), 2, "{said:?}");
    world.end().await;
}

/// Replicas of one worker share one key: each task belongs to one replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_one_key_each_have_their_own_tasks() {
    let world = World::start(&[("EXTERNAL_AGENTS", "dev"), ("WATCHBILL_GATES", "off")]).await;
    let mut tasks = BTreeSet::new();
    for n in 0..12 {
        let body = json!({"type": "bugfix", "payload": {"description": format!("bug {n}")}});
        let task = world.agent.submit(body).await;
        tasks.insert(task["task_id"].as_str().expect("an id").to_owned());
    }
    let arguments = ["--key", KEYS.agent, "--agent", "dev", "--count", "4", "--tasks", "12"];
    let mut said = Peer::run("replicas.py", &world.launch.url(), &arguments).await;
    let refused = said.pop().expect("it says how often it was refused")["refused"].clone();
    assert!(
        refused.as_u64().is_some_and(|refused| refused > 0),
        "no two replicas claimed the same task: {refused}"
    );
    let done: Vec<_> = said.iter().filter_map(|done| done["task_id"].as_str()).collect();
    assert_eq!(done.len(), 12, "each is done once: {said:?}");
    assert_eq!(done.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>(), tasks);
    for done in &said {
        let task = world.agent.task(done["task_id"].as_str().expect("an id")).await;
        assert_eq!(
            (&task["status"], &task["metadata"]["result"]["by"]),
            (&json!("completed"), &done["worker"]),
            "the result is that of the replica that had it"
        );
    }
    world.end().await;
}

/// Today's date in UTC.
fn chrono_day() -> String {
    use watchbill_core::ports::Clock as _;
    watchbill_host::clock::SystemClock::new().now().day()
}

async fn until_key(redis: &mut redis::aio::MultiplexedConnection, key: &str) -> Value {
    let came = tokio::time::timeout(TIMEOUT, async {
        loop {
            let text: Option<String> =
                redis::cmd("GET").arg(key).query_async(redis).await.expect("redis answers");
            if let Some(text) = text {
                return serde_json::from_str(&text).expect("JSON");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    came.await.unwrap_or_else(|_| panic!("there is no {key}"))
}
