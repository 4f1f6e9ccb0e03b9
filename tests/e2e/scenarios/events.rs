//! Scenarios of published events: reactions to them, following them, and refused ones.

use serde_json::{Value, json};

use super::tasks::id;
use crate::e2e::{Backend, Settings, World};
use crate::support::TIMEOUT_ON_AWS;

fn event(event_type: &str, payload: Value) -> Value {
    json!({"event_type": event_type, "source_agent": "ci", "payload": payload})
}

pub async fn a_task_requested_event_creates_a_task<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let asked = json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P3"});
    let published = world.agent.post("/events/publish", event("task.requested", asked)).await.ok();
    assert_eq!(published["message"], "Event task.requested published");
    let made = world.user.tasks_once_there("type=monitor").await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["priority"], "P3");
    let done = world.user.until(&id(&made[0]), "completed").await;
    assert_eq!(done["metadata"]["result"]["success"], true);
    // A requested task with a gate waits like any other.
    let gated = json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P1"});
    world.agent.post("/events/publish", event("task.requested", gated)).await.ok();
    let gated = world.user.tasks_once_there("status=pending").await;
    let gated = id(&gated[0]);
    world.agent.post(&format!("/tasks/{gated}/cancel"), json!({})).await.ok();
    world.end().await;
}

pub async fn repeated_alerts_in_a_window_create_one_task<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let alert = |target: &str| {
        let payload = json!({"alert_type": "high_cpu", "severity": "critical", "target": target});
        event("alert.triggered", payload)
    };
    for target in ["web-1", "web-1", "web-2", "web-1"] {
        world.agent.post("/events/publish", alert(target)).await.ok();
    }
    // In recorded order: when the last event's task exists, the others' tasks do too.
    world.agent.post("/events/publish", alert("web-3")).await.ok();
    let found = tokio::time::timeout(TIMEOUT_ON_AWS, async {
        loop {
            let found = world.user.tasks_once_there("type=alert").await;
            if found.iter().any(|task| task["payload"]["target"] == "web-3") {
                return found;
            }
            world.user.get("/events?wait=1").await.ok();
        }
    });
    let found = found.await.expect("the last alert's task is made");
    let mut targets: Vec<_> =
        found.iter().filter_map(|task| task["payload"]["target"].as_str()).collect();
    targets.sort_unstable();
    assert_eq!(targets, ["web-1", "web-2", "web-3"]);
    for task in &found {
        assert_eq!(task["metadata"]["reaction"], "alert-triggered");
        let done = world.user.until(&id(task), "completed").await;
        assert_eq!(done["metadata"]["result"]["success"], true);
    }
    world.end().await;
}

/// A client that follows by `after` sees everything that is recorded, in that order.
pub async fn a_follower_misses_nothing<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let first = world.agent.post("/events/publish", event("ci.started", json!({"n": 0}))).await;
    let first = first.ok()["event_id"].as_str().expect("an event has an id").to_owned();
    let following = follow(&world, &first);
    let working = async {
        for n in 1..=20 {
            let body = json!({"type": "monitor", "payload": {"service": "system"}});
            let task = id(&world.agent.submit(body).await);
            world.agent.post("/events/publish", event("ci.started", json!({"n": n}))).await.ok();
            if n % 5 == 0 {
                world.user.until(&task, "completed").await;
            }
        }
        for task in world.user.all("/tasks?", "tasks").await {
            world.user.until(&id(&task), "completed").await;
        }
        world.agent.post("/events/publish", event("ci.passed", json!({}))).await.ok();
    };
    let (followed, ()) = tokio::join!(following, working);
    let mut recorded = world.user.all("/events?", "events").await;
    recorded.reverse();
    let ids = |events: &[Value]| -> Vec<String> {
        let ids = events.iter().filter_map(|event| event["event_id"].as_str());
        ids.map(str::to_owned).collect()
    };
    let recorded = ids(&recorded);
    let from = recorded.iter().position(|id| *id == first).expect("it is recorded");
    assert_eq!(ids(&followed), recorded[from + 1..]);
    let of = |group: &str| {
        let types = followed.iter().filter_map(|event| event["event_type"].as_str());
        types.filter(|event_type| event_type.starts_with(group)).count()
    };
    assert_eq!((of("task."), of("ci.")), (20 * 3, 20 + 1));
    // The agent's first success raises its trust level. Runs that change nothing earn at most
    // ten points a day, so the other runs don't reach the 130 points of the next level.
    assert_eq!(of("reputation."), 1);
    refused_in_the_end(&world, "/events?after=01a1f8c9-41c1-8fae-9749-843143e879b1").await;
    world.end().await;
}

/// One call searches for a second. If it has not searched everything by then, its cursor
/// continues.
async fn refused_in_the_end<B: Backend>(world: &World<B>, path: &str) {
    let mut answer = world.user.get(path).await;
    while answer.status == 200 {
        let page = answer.ok();
        assert_eq!(page["count"], 0, "{page}");
        let cursor = page["next_cursor"].as_str().expect("it has not looked at all");
        answer = world.user.get(&format!("{path}&cursor={cursor}")).await;
    }
    answer.refused(404);
}

async fn follow<B: Backend>(world: &World<B>, first: &str) -> Vec<Value> {
    let mut after = first.to_owned();
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        // Small pages, so that there are many page boundaries.
        let path = format!("/events?after={after}&wait=20&limit=3{cursor}");
        let answer = world.user.get(&path).await;
        if answer.status == 404 && seen.is_empty() {
            // The event that it follows is durable, but recorded a moment later.
            world.user.get("/events?wait=1&limit=1").await.ok();
            continue;
        }
        let page = answer.ok();
        // A page without events has a cursor if the search is not complete.
        let next = page["next_cursor"].as_str().filter(|_| page["count"] == 0);
        cursor = next.map(|next| format!("&cursor={next}")).unwrap_or_default();
        for event in page["events"].as_array().expect("a list") {
            after = event["event_id"].as_str().expect("an event has an id").to_owned();
            seen.push(event.clone());
            if event["event_type"] == "ci.passed" {
                return seen;
            }
        }
    }
}

pub async fn reserved_malformed_and_large_events_are_refused<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let publish = |body: Value| world.agent.post("/events/publish", body);
    for group in ["approval", "budget", "reputation", "permission", "circuit", "ops_cycle", "audit"]
    {
        let refused = publish(event(&format!("{group}.made_up"), json!({}))).await.refused(403);
        assert!(refused.contains(group), "{refused}");
    }
    for odd in ["noun", "Two Words.x", "a..b", "", ".x"] {
        publish(event(odd, json!({}))).await.refused(400);
    }
    let large = json!({"text": "x".repeat(101 * 1024)});
    publish(event("ci.failed", large)).await.refused(413);
    // It is carried unchanged, and nothing is created from it.
    publish(event("lunch.served", json!({"soup": true}))).await.ok();
    assert!(world.user.all("/tasks?", "tasks").await.is_empty());
    world.end().await;
}
