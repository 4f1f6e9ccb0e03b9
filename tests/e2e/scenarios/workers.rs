//! Scenarios of external workers: claims, leases, questions and large results.

use std::time::Duration;

use serde_json::{Value, json};

use super::tasks::{id, story};
use crate::e2e::{Backend, Settings, World};
use crate::support::{Client, Stopwatch};

fn bugfix() -> Value {
    json!({"type": "bugfix", "payload": {"description": "the login fails"}})
}

fn external() -> Settings {
    Settings { external: &["dev"], ..Settings::default() }
}

/// A worker with its own key.
async fn worker(admin: &Client, name: &str) -> Client {
    let made = admin.post("/keys", json!({"name": name, "role": "agent"})).await.ok();
    admin.with_key(made["key"].as_str().expect("a new key is shown"))
}

pub async fn a_worker_claims_and_completes_a_task<B: Backend>() {
    let world = World::<B>::start(external()).await;
    let ann = worker(&world.admin, "worker-a").await;
    let bob = worker(&world.admin, "worker-b").await;
    let looking = ann.get("/tasks?assigned_to=dev&status=assigned&wait=20");
    let (found, task) = tokio::join!(looking, world.agent.submit(bugfix()));
    let task = id(&task);
    let found = found.ok();
    assert_eq!(found["count"], 1, "the wait ends with the task: {found}");
    assert_eq!(found["tasks"][0]["task_id"], json!(task));

    let path = format!("/tasks/{task}/status");
    ann.patch(&path, json!({"status": "in_progress"})).await.ok();
    for status in ["in_progress", "completed", "failed", "blocked"] {
        bob.patch(&path, json!({"status": status, "error": "mine"})).await.refused(409);
    }
    // A repeated report renews the lease.
    ann.patch(&path, json!({"status": "in_progress"})).await.ok();
    let result = json!({"commit": "4f0c", "files": ["login.rs"]});
    ann.patch(&path, json!({"status": "completed", "result": result})).await.ok();
    let done = world.user.task(&task).await;
    assert_eq!((&done["status"], &done["metadata"]["result"]), (&json!("completed"), &result));
    ann.patch(&path, json!({"status": "failed", "error": "no"})).await.refused(409);
    let timeline = world.user.timeline(&task).await;
    assert_eq!(story(&timeline), ["created", "claimed", "renewed", "completed"]);
    assert!(timeline.iter().any(|entry| entry["by"] == "worker:worker-a"), "{timeline:?}");
    world.end().await;
}

pub async fn one_step_claims_and_completes<B: Backend>() {
    let world = World::<B>::start(external()).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let path = format!("/tasks/{task}/status?status=completed");
    world.agent.patch(&path, json!({})).await;
    let racing = id(&world.agent.submit(bugfix()).await);
    let mut claiming = tokio::task::JoinSet::new();
    for n in 0..6 {
        let worker = worker(&world.admin, &format!("worker-{n}")).await;
        let path = format!("/tasks/{racing}/status");
        claiming.spawn(async move { worker.patch(&path, json!({"status": "in_progress"})).await });
    }
    let answers = claiming.join_all().await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1, "one worker has the task");
    for task in [task, racing] {
        if world.user.task(&task).await["status"] != "completed" {
            world.agent.post(&format!("/tasks/{task}/cancel"), json!({})).await.ok();
        }
    }
    world.end().await;
}

/// Many processes share one key. One of them has the task, and completes it with its fence.
pub async fn of_replicas_with_one_key_one_has_the_claim<B: Backend>() {
    let world = World::<B>::start(external()).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let path = format!("/tasks/{task}/status");
    let mut claiming = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (agent, path) = (world.agent.clone(), path.clone());
        let body = json!({"status": "in_progress", "worker": format!("pod-{n}")});
        claiming.spawn(async move { (n, agent.patch(&path, body).await) });
    }
    let answers = claiming.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, a)| a.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 5), "one replica has the task");
    assert!(lost.iter().all(|(_, answer)| answer.status == 409));
    let (n, answer) = won[0];
    let fence = answer.body["fence"].as_u64().expect("the winner receives its fence");
    let done =
        |n, fence| json!({"status": "completed", "worker": format!("pod-{n}"), "fence": fence});
    world.agent.patch(&path, done((n + 1) % 6, fence)).await.refused(409);
    world.agent.patch(&path, done(*n, fence + 1)).await.refused(409);
    world.agent.patch(&path, done(*n, fence)).await.ok();
    world.end().await;
}

/// The task is requeued each time, and fails when that has happened too often.
pub async fn a_silent_worker_loses_the_task<B: Backend>() {
    let world = World::<B>::start(Settings { worker_lease: Some("0.1"), ..external() }).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let path = format!("/tasks/{task}/status");
    for _ in 0..5 {
        world.agent.patch(&path, json!({"status": "in_progress"})).await.ok();
        let back = world.user.until(&task, "assigned").await;
        assert_eq!(back["assigned_to"], "dev");
    }
    world.agent.patch(&path, json!({"status": "in_progress"})).await.ok();
    let failed = world.user.until(&task, "failed").await;
    let why = failed["error"].as_str().unwrap_or_default();
    assert!(why.contains("vanished"), "{why}");
    let timeline = world.user.timeline(&task).await;
    let returned = story(&timeline).iter().filter(|what| **what == "returned").count();
    assert_eq!(returned, 5);
    world.end().await;
}

/// Well beyond the first lease. Only real time ends a lease of an external process.
pub async fn a_worker_that_reports_keeps_the_task<B: Backend>() {
    let world = World::<B>::start(Settings { worker_lease: Some("2"), ..external() }).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let path = format!("/tasks/{task}/status");
    let watch = Stopwatch::start();
    while watch.elapsed() < 2 * (Duration::from_secs(2) + world.backend.late()) {
        world.agent.patch(&path, json!({"status": "in_progress"})).await.ok();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    world.agent.patch(&path, json!({"status": "completed"})).await.ok();
    let timeline = world.user.timeline(&task).await;
    let mut changes = story(&timeline);
    changes.retain(|what| *what != "checked");
    changes.dedup();
    assert_eq!(changes, ["created", "claimed", "renewed", "completed"]);
    world.end().await;
}

pub async fn a_blocked_task_continues_after_an_answer<B: Backend>() {
    let world = World::<B>::start(external()).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let path = format!("/tasks/{task}/status");
    world.agent.patch(&path, json!({"status": "in_progress"})).await.ok();
    let why = json!({"status": "blocked", "error": "which database?"});
    world.agent.patch(&path, why).await.ok();
    let blocked = world.user.task(&task).await;
    assert_eq!(
        (&blocked["status"], &blocked["error"]),
        (&json!("blocked"), &json!("which database?"))
    );
    let answer = format!("/tasks/{task}/answer");
    world.agent.post(&answer, json!({"text": "the replica"})).await.refused(403);
    let answered = world.approver.post(&answer, json!({"text": "the replica"})).await.ok();
    assert_eq!(answered["status"], "assigned");
    world.approver.post(&answer, json!({"text": "again"})).await.refused(409);
    world.agent.patch(&path, json!({"status": "completed"})).await.ok();
    world.end().await;
}

/// A result that is too large for the header and for an item next to it: a worker submits it,
/// and it is returned whole.
pub async fn a_large_result_is_kept<B: Backend>() {
    let world = World::<B>::start(external()).await;
    let task = id(&world.agent.submit(bugfix()).await);
    let result = json!({"log": "line of a build\n".repeat(9_000)});
    let done = json!({"status": "completed", "result": result});
    world.agent.patch(&format!("/tasks/{task}/status"), done).await.ok();
    assert_eq!(world.user.task(&task).await["metadata"]["result"], result);
    let listed = world.user.all("/tasks?", "tasks").await;
    let shown = &listed[0]["metadata"]["result"];
    assert!(shown["left_out"]["bytes"].as_u64() > Some(100_000), "a list leaves it out: {shown}");
    world.end().await;
}
