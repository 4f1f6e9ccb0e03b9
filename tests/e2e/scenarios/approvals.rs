//! Scenarios of approvals that are granted, rejected, expired or decided concurrently.

use serde_json::{Value, json};

use super::tasks::{id, story};
use crate::e2e::{Backend, Settings, World};

fn urgent() -> Value {
    json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P0"})
}

async fn submit<B: Backend>(world: &World<B>) -> (String, String) {
    let answer = world.agent.post("/tasks", urgent()).await.ok();
    let task = id(&answer["task"]);
    let approval = format!("approval_{task}");
    assert_eq!(answer["task"]["status"], "pending");
    assert_eq!(answer["task"]["approval_id"], json!(approval));
    let message = format!("Task created and assigned to ops; waiting for approval {approval}");
    assert_eq!(answer["message"], json!(message));
    (task, approval)
}

pub async fn an_approved_task_runs<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let (task, approval) = submit(&world).await;
    let pending = world.user.all("/approvals/pending?", "approvals").await;
    assert_eq!(pending.len(), 1);
    let shown = &pending[0];
    assert_eq!((&shown["approval_id"], &shown["status"]), (&json!(approval), &json!("pending")));
    assert_eq!(shown["requested_by"], "agent");
    assert_eq!((&shown["task_type"], &shown["priority"]), (&json!("monitor"), &json!("P0")));
    assert_eq!(shown["reason"], "priority P0 waits for a person");
    assert!(shown["approver"].is_null() && shown["approved_at"].is_null(), "{shown}");
    assert!(shown["plan_hash"].as_str().is_some_and(|hash| hash.len() == 64), "{shown}");
    world.approver.get(&format!("/tasks/{task}")).await.ok();
    let approve = format!("/approvals/{approval}/approve");
    let answer = world.approver.post(&approve, json!({})).await.ok();
    assert_eq!(answer["message"], "Approved by approver");
    world.user.until(&task, "completed").await;
    let events = world.user.events_until(&task, "task.completed").await;
    let types: Vec<_> = events.iter().filter_map(|event| event["event_type"].as_str()).collect();
    let expected = [
        "task.created",
        "approval.requested",
        "approval.approved",
        "task.assigned",
        "task.started",
        "task.completed",
    ];
    assert_eq!(types, expected);
    let history = world.user.all("/approvals/history?", "history").await;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0]["approved_by"], "approver");
    assert_eq!(history[0]["approver"], "approver");
    assert_eq!(history[0]["approved_at"], history[0]["decided_at"]);
    assert!(history[0]["approved_at"].is_string(), "{}", history[0]);
    world.end().await;
}

pub async fn a_rejected_task_never_runs<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let (task, approval) = submit(&world).await;
    let reject = format!("/approvals/{approval}/reject?reason=not%20on%20a%20Friday");
    world.approver.post(&reject, json!({})).await.ok();
    let cancelled = world.user.until(&task, "cancelled").await;
    assert!(cancelled["started_at"].is_null(), "{cancelled}");
    let why = cancelled["error"].as_str().unwrap_or_default();
    assert!(why.contains("not on a Friday") && why.contains("approver"), "{why}");
    assert_eq!(story(&world.user.timeline(&task).await), ["created", "rejected"]);
    let shown = world.user.get(&format!("/approvals/{approval}")).await.ok();
    assert_eq!(shown["approval"]["status"], "rejected");
    assert_eq!(shown["approval"]["reason"], "not on a Friday");
    world.end().await;
}

pub async fn an_unanswered_task_is_cancelled<B: Backend>() {
    let settings = Settings { decide_within: Some("0.2"), ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let (task, approval) = submit(&world).await;
    let cancelled = world.user.until(&task, "cancelled").await;
    assert!(cancelled["started_at"].is_null(), "{cancelled}");
    let shown = world.user.get(&format!("/approvals/{approval}")).await.ok();
    assert_eq!(shown["approval"]["status"], "expired");
    let late = format!("/approvals/{approval}/approve");
    world.approver.post(&late, json!({})).await.refused(409);
    let events = world.user.events_until(&task, "task.cancelled").await;
    assert!(events.iter().any(|event| event["event_type"] == "approval.expired"), "{events:?}");
    world.end().await;
}

pub async fn nobody_approves_their_own_task_where_two_persons_are_required<B: Backend>() {
    let settings = Settings { two_persons: true, ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let task = id(&world.admin.submit(urgent()).await);
    let approve = format!("/approvals/approval_{task}/approve");
    let own = world.admin.post(&approve, json!({})).await.refused(403);
    assert!(own.contains("yourself") || own.contains("own") || own.contains("submitted"), "{own}");
    assert_eq!(world.user.task(&task).await["status"], "pending");
    world.approver.post(&approve, json!({})).await.ok();
    world.user.until(&task, "completed").await;
    world.end().await;
}

pub async fn of_concurrent_decisions_one_counts<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    for _ in 0..4 {
        let (task, approval) = submit(&world).await;
        let mut deciding = tokio::task::JoinSet::new();
        for n in 0..6 {
            let who = if n % 2 == 0 { world.approver.clone() } else { world.admin.clone() };
            let word = if n < 3 { "approve" } else { "reject?reason=no" };
            let path = format!("/approvals/{approval}/{word}");
            deciding.spawn(async move { who.post(&path, json!({})).await });
        }
        let answers = deciding.join_all().await;
        let won = answers.iter().filter(|answer| answer.status == 200).count();
        let lost = answers.iter().filter(|answer| answer.status == 409).count();
        assert_eq!((won, lost), (1, 5), "the losers get a 409");
        let shown = world.user.get(&format!("/approvals/{approval}")).await.ok();
        let approved = shown["approval"]["status"] == "approved";
        world.user.until(&task, if approved { "completed" } else { "cancelled" }).await;
    }
    let (task, approval) = submit(&world).await;
    for caller in [&world.user, &world.agent] {
        caller.post(&format!("/approvals/{approval}/approve"), json!({})).await.refused(403);
        caller.post(&format!("/approvals/{approval}/reject"), json!({})).await.refused(403);
    }
    // A worker can't open the gate either.
    let path = format!("/tasks/{task}/status");
    world.agent.patch(&path, json!({"status": "assigned"})).await.refused(409);
    world.agent.patch(&path, json!({"status": "in_progress"})).await.refused(409);
    world.agent.patch(&path, json!({"status": "completed"})).await.refused(409);
    world.agent.patch(&path, json!({"status": "cancelled"})).await.ok();
    world.end().await;
}
