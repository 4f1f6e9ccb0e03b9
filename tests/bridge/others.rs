//! Data of the other programs stays theirs: the counters that they decide by, tasks of agents
//! that are unknown here, tasks under ids that also exist here. Every client that waits in Redis
//! is notified exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use watchbill_core::decide::Command;
use watchbill_domain::{Amount, TenantId};
use watchbill_host::clock::SystemClock;
use watchbill_redis_bridge::Settings;
use watchbill_testkit::governance_suite;

use super::inside::Inside;
use super::peers::until_status;
use super::queue::{self, QUEUE};
use super::{POLL_INTERVAL, TIMEOUT, World};
use crate::support::Peer;

const ORCHESTRATOR: &str = "orchestrator.py";
const SPENDING: &str = "spending.py";

async fn spending(url: &str, args: &[&str]) -> Value {
    Peer::run(SPENDING, url, args).await.pop().expect("it prints the sums")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_budgets_count_our_mirrored_spending() {
    let settings = Settings { mirror_cost: true, ..Settings::default() };
    let inside = Inside::new(Arc::new(SystemClock::new()), settings).await;
    let url = inside.url();
    let limits = ["--max-tokens", "1000", "--max-usd", "5"];
    let check = |more: &[&str]| {
        let args: Vec<String> = more.iter().chain(&limits).map(|&word| word.to_owned()).collect();
        let url = url.clone();
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            spending(&url, &args).await
        }
    };
    let before = check(&["spend", "--tokens", "900", "--usd", "4.5"]).await;
    assert_eq!(before["within"], true, "{before}");
    // Our own spending, on the same day.
    let (id, fence) = governance_suite::running(&inside.core, 1).await;
    let used = Amount { micro_usd: 60_000, tokens: 150 };
    let tenant = TenantId::default();
    let reserved =
        inside.core.tasks().reserve(&tenant, &id, fence, used).await.expect("there is room");
    let n = reserved.value.reservation.expect("it is set aside").n;
    for command in [Command::Sent { fence, n }, Command::Settle { fence, n, used }] {
        inside.core.tasks().command(&tenant, &id, &command).await.expect("it is ours");
    }
    let summed = async {
        loop {
            inside.bridge.round(Duration::from_millis(300), None).await;
            let now = check(&["check"]).await;
            if now["daily"]["tokens"] != 900 {
                return now;
            }
        }
    };
    let now = tokio::time::timeout(TIMEOUT, summed).await.expect("our spending is added in time");
    assert_eq!(now["daily"]["tokens"], 1_050, "{now}");
    assert_eq!((&now["daily"]["usd"], &now["daily"]["requests"]), (&json!(4.56), &json!(1)));
    assert_eq!(now["within"], false, "both together exceed the limit: {now}");
    let kept = now["daily"]["ttl"].as_u64().expect("it has an end");
    assert!(kept <= 7 * 86_400, "no longer than its owner's expiry: {now}");
    // Further rounds leave it unchanged, and the other programs continue to count.
    for _ in 0..3 {
        inside.bridge.round(Duration::from_millis(300), None).await;
    }
    let now = check(&["spend", "--tokens", "7", "--usd", "0"]).await;
    inside.bridge.round(Duration::from_millis(300), None).await;
    let after = check(&["check"]).await;
    assert_eq!(
        (&now["daily"]["tokens"], &after["daily"]["tokens"]),
        (&json!(1_057), &json!(1_057))
    );
    // Their worker refuses work because of it.
    let worker = Peer::ready(
        ORCHESTRATOR,
        &url,
        &["work", "--name", "ops", "--seconds", "6", "--max-tokens", "1000"],
    );
    let worker = worker.await;
    let task = Peer::run(ORCHESTRATOR, &url, &["publish", "--wait", "5"]).await;
    let error = task[0]["task"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("budget exceeded: 1057 tokens"), "{task:?}");
    worker.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_unknown_agents_stay_in_the_queue() {
    let world = World::start(&[("REDIS_DRAIN", "ops"), ("WATCHBILL_GATES", "off")]).await;
    let url = world.url();
    let mut redis = queue::connect(&url).await;
    // No worker handles these at the moment: they must not be touched.
    let mut pipe = redis::pipe();
    let long = "q".repeat(140);
    for (id, more) in [
        ("shouted", json!({"assigned_to": "OPS"})),
        ("unknown", json!({"type": "dance", "assigned_to": "qa_agent"})),
        ("unsaid", json!({"type": "dance", "assigned_to": null})),
        ("odd", json!({"assigned_to": 7, "payload": [1]})),
        (long.as_str(), json!({"assigned_to": "qa_agent"})),
    ] {
        queue::put(&mut pipe, id, &queue::data(id, more));
    }
    pipe.exec_async(&mut redis).await.expect("redis takes them");
    // One of ours is behind them: when it has run, the bridge has examined them.
    queue::enqueue(&mut redis, 0..1).await;
    world.arrives(&queue::id(0), "completed").await;
    let mut ask = redis::cmd("ZRANGE");
    ask.arg(QUEUE).arg(0).arg(-1);
    let left: Vec<String> = ask.query_async(&mut redis).await.expect("redis answers");
    assert_eq!(left, ["odd", &long, "shouted", "unknown", "unsaid"]);
    for id in ["shouted", "unknown", "unsaid", "odd", &long] {
        until_status(&mut redis, id, "assigned").await;
    }
    let mut clear = redis::cmd("ZREM");
    let _: u64 = clear.arg(QUEUE).arg(&left).query_async(&mut redis).await.expect("it answers");
    // Their worker gets all of its tasks, while ours run here.
    let arguments = ["work", "--name", "qa_agent", "--seconds", "8"];
    let worker = Peer::ready(ORCHESTRATOR, &url, &arguments).await;
    let theirs = ["publish", "--agent", "qa_agent", "--count", "5", "--wait", "8"];
    let (theirs, ours) = tokio::join!(
        Peer::run(ORCHESTRATOR, &url, &theirs),
        Peer::run(ORCHESTRATOR, &url, &["publish", "--count", "5", "--wait", "8"])
    );
    for one in &theirs {
        assert_eq!(one["task"]["metadata"]["result"]["by"], "qa_agent", "{one}");
    }
    for one in &ours {
        assert_eq!(one["task"]["status"], "completed", "{one}");
        assert!(one["task"]["metadata"]["result"]["by"].is_null(), "{one}");
    }
    assert_eq!((theirs.len(), ours.len(), worker.ended().await.len()), (5, 5, 5));
    let report = world.health().await["redis_bridge"].clone();
    assert_eq!((&report["rejected"], &report["taken"]), (&json!(0), &json!(6)), "{report}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_rejected_task_is_notified() {
    let settings = [("REDIS_DRAIN", "ops"), ("REDIS_EVENTS", "in")];
    let world = World::start(&settings).await;
    let url = world.url();
    world.health_until("connected", |health| health["redis"] == "connected").await;
    // Larger than a task may be here; their own program still reads it.
    let large = ["publish", "--pad", "210000", "--count", "2", "--wait", "20", "--hear"];
    let said = Peer::run(ORCHESTRATOR, &url, &large).await;
    assert_eq!(said.len(), 2, "{said:?}");
    for one in &said {
        let task = &one["task"];
        assert_eq!(task["status"], "failed", "{one}");
        assert!(task["error"].as_str().is_some_and(|why| why.contains("204800")), "{one}");
        assert!(task["completed_at"].is_string() && task["payload"]["n"].is_number(), "{one}");
        // The same event on its own channel and on the channel for all.
        let heard = one["heard"].as_array().expect("a list");
        let channels: Vec<&Value> = heard.iter().map(|heard| &heard[0]).collect();
        assert_eq!(channels, [&json!("task.failed"), &json!("*")], "{one}");
        assert_eq!(heard[0][2], heard[1][2], "{one}");
    }
    // Here it is among the events, once.
    let id = said[0]["task_id"].as_str().expect("an id");
    let events = world.events().await;
    let of_it: Vec<&Value> = events.iter().filter(|event| event["task_id"] == id).collect();
    let failed: Vec<&&Value> =
        of_it.iter().filter(|event| event["event_type"] == "task.failed").collect();
    assert_eq!(failed.len(), 1, "{of_it:?}");
    assert!(failed[0]["payload"]["error"].as_str().is_some_and(|why| why.contains("204800")));
    let health = world.health().await;
    assert_eq!(health["redis_bridge"]["rejected"], 2, "{health}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_rejected_message_is_notified() {
    let world = World::start(&[("REDIS_DOMAINS", "devops")]).await;
    let mut redis = queue::connect(&world.url()).await;
    let mut push = redis::cmd("LPUSH");
    let message = json!({"task_id": "d-9", "type": "task_assignment", "metadata": {}});
    push.arg("tasks:pending:devops").arg(message.to_string());
    let _: u64 = push.query_async(&mut redis).await.expect("redis takes it");
    let mut ask = redis::cmd("HGETALL");
    ask.arg("results:d-9");
    let result = tokio::time::timeout(TIMEOUT, async {
        loop {
            let result: BTreeMap<String, String> =
                ask.query_async(&mut redis).await.expect("redis answers");
            if !result.is_empty() {
                return result;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    let result = result.await.expect("its client waits for it");
    assert_eq!((&*result["status"], &*result["error"]), ("failed", "rejected: it has no payload"));
    world.end().await;
}

/// Counts the events of these tasks by type.
fn counted(events: &[&Value], ids: &[String]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for event in events {
        if event["task_id"].as_str().is_some_and(|id| ids.iter().any(|one| one == id)) {
            let kind = event["event_type"].as_str().expect("a type").to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_tasks_start_and_end_are_published_once_on_both_sides() {
    let settings = [
        ("REDIS_FEED", "bugfix"),
        ("REDIS_DRAIN", "ops"),
        ("REDIS_EVENTS", "in,out"),
        ("WATCHBILL_GATES", "off"),
    ];
    let world = World::start(&settings).await;
    let url = world.url();
    world.health_until("connected", |health| health["redis"] == "connected").await;
    let hearing = Peer::ready(ORCHESTRATOR, &url, &["listen", "--seconds", "24"]).await;
    let arguments = ["work", "--name", "dev", "--seconds", "10"];
    let worker = Peer::ready(ORCHESTRATOR, &url, &arguments).await;
    let mut fed = Vec::new();
    for n in 0..5 {
        let task = json!({"type": "bugfix", "payload": {"n": n}});
        fed.push(world.agent.submit(task).await["task_id"].as_str().expect("an id").to_owned());
    }
    for id in &fed {
        world.agent.until(id, "completed").await;
    }
    // One that ends here without a report from Redis: we publish its end.
    worker.ended().await;
    let task = world.agent.submit(json!({"type": "bugfix", "payload": {}})).await;
    let cancelled = [task["task_id"].as_str().expect("an id").to_owned()];
    let mut redis = queue::connect(&url).await;
    until_status(&mut redis, &cancelled[0], "assigned").await;
    world.agent.post(&format!("/tasks/{}/cancel", cancelled[0]), json!({})).await.ok();
    // Tasks of theirs that run here.
    let said = Peer::run(ORCHESTRATOR, &url, &["publish", "--count", "3", "--wait", "8"]).await;
    let drained: Vec<String> =
        said.iter().map(|one| one["task_id"].as_str().expect("an id").to_owned()).collect();
    let heard = hearing.ended().await;
    let there: Vec<&Value> = heard.iter().map(|heard| &heard["event"]).collect();
    let here = world.events().await;
    let here: Vec<&Value> = here.iter().collect();
    for (place, events) in [("there", &there), ("here", &here)] {
        for (ids, last) in [
            (&fed[..], "task.completed"),
            (&drained, "task.completed"),
            (&cancelled, "task.cancelled"),
        ] {
            let kinds = counted(events, ids);
            let of = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
            // If none of their workers started a task, no one there reports a start.
            let begun = if place == "there" && last == "task.cancelled" { 0 } else { ids.len() };
            assert_eq!(of("task.created"), ids.len(), "{place}: {kinds:?}");
            assert_eq!(of("task.started"), begun, "{place}: {kinds:?}");
            assert_eq!(of(last), ids.len(), "{place}: {kinds:?}");
        }
    }
    world.end().await;
}

/// Events of tasks that stay in Redis are imported, as are other programs' events of any kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_others_tasks_are_imported() {
    let settings = [("REDIS_DRAIN", "ops"), ("REDIS_EVENTS", "in"), ("WATCHBILL_GATES", "off")];
    let world = World::start(&settings).await;
    let url = world.url();
    world.health_until("connected", |health| health["redis"] == "connected").await;
    // Events that are published before the bridge subscribes are not received.
    while world.health().await["redis_bridge"]["events_in"] == 0 {
        Peer::run(ORCHESTRATOR, &url, &["tell"]).await;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let arguments = ["work", "--name", "qa_agent", "--seconds", "5"];
    let worker = Peer::ready(ORCHESTRATOR, &url, &arguments).await;
    let theirs = ["publish", "--agent", "qa_agent", "--count", "2", "--wait", "5"];
    let said = Peer::run(ORCHESTRATOR, &url, &theirs).await;
    worker.ended().await;
    let ids: Vec<String> =
        said.iter().map(|one| one["task_id"].as_str().expect("an id").to_owned()).collect();
    let wanted = ["task.completed", "task.created", "task.started"].map(|kind| (kind.into(), 2));
    let wanted = BTreeMap::<String, usize>::from(wanted);
    let mut kinds = BTreeMap::new();
    let heard = tokio::time::timeout(TIMEOUT, async {
        while kinds != wanted {
            let events = world.events().await;
            kinds = counted(&events.iter().collect::<Vec<_>>(), &ids);
        }
    });
    let heard = heard.await.is_ok();
    assert!(heard, "{kinds:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_does_not_overwrite_another_programs_task() {
    let world = World::start(&[("REDIS_FEED", "bugfix"), ("WATCHBILL_GATES", "off")]).await;
    let mut redis = queue::connect(&world.url()).await;
    let theirs = queue::data("shared", json!({"type": "bugfix", "assigned_to": "dev"}));
    let mut put = redis::cmd("HSET");
    put.arg("orchestrator:task:shared").arg("data").arg(&theirs).arg("status").arg("completed");
    let _: u64 = put.query_async(&mut redis).await.expect("redis takes it");
    let task = json!({"type": "bugfix", "task_id": "shared", "payload": {"issue": 7}});
    world.agent.submit(task).await;
    let blocked = world.agent.until("shared", "blocked").await;
    let error = blocked["error"].as_str().expect("a reason");
    assert!(error.contains("orchestrator:task:shared"), "{blocked}");
    let mut ask = redis::cmd("HMGET");
    ask.arg("orchestrator:task:shared").arg("data").arg("status").arg("watchbill_fed");
    let kept: Vec<Option<String>> = ask.query_async(&mut redis).await.expect("redis answers");
    assert_eq!(kept, [Some(theirs), Some("completed".to_owned()), None]);
    // The next task is still exported.
    let next = world.agent.submit(json!({"type": "bugfix", "payload": {}})).await;
    let next = next["task_id"].as_str().expect("an id").to_owned();
    until_status(&mut redis, &next, "assigned").await;
    world.end().await;
}

/// Their own client submits alerts without a type, and leaves the type to the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_without_a_type_is_an_alert_of_the_system() {
    let world = World::start(&[("REDIS_DRAIN", "ops"), ("WATCHBILL_GATES", "off")]).await;
    let payload =
        r#"{"severity": "high", "message": "High resource usage", "metrics": {"cpu": 91}}"#;
    let alert = ["publish", "--type", "alert", "--payload", payload, "--wait", "20"];
    let said = Peer::run(ORCHESTRATOR, &world.url(), &alert).await;
    let task = &said[0]["task"];
    assert_eq!(task["status"], "completed", "{said:?}");
    let raised = &task["metadata"]["result"]["alerts"][0];
    assert_eq!(raised["alert_type"], "system", "{said:?}");
    assert_eq!(raised["message"], "High resource usage", "{said:?}");
    let unsaid = ["publish", "--type", "investigate", "--wait", "20"];
    let said = Peer::run(ORCHESTRATOR, &world.url(), &unsaid).await;
    assert_eq!(said[0]["task"]["status"], "completed", "{said:?}");
    world.end().await;
}
