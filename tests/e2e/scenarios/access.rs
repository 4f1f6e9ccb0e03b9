//! Scenarios of keys, roles, the audit log and error responses.

use reqwest::Method;
use serde_json::{Value, json};

use super::tasks::id;
use crate::e2e::{Backend, Settings, World};

pub async fn a_key_works_until_it_is_revoked<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let made = world.admin.post("/keys", json!({"name": "ci", "role": "agent"})).await.ok();
    let key = made["key"].as_str().expect("it is shown once").to_owned();
    let ci = world.admin.with_key(&key);
    let body = json!({"type": "monitor", "payload": {"service": "system"}});
    world.user.until(&id(&ci.submit(body.clone()).await), "completed").await;
    ci.post("/keys", json!({"name": "more", "role": "admin"})).await.refused(403);
    world.admin.post("/keys", json!({"name": "ci", "role": "user"})).await.refused(409);
    let listed = world.admin.get("/keys").await.ok();
    assert!(!listed.to_string().contains(&key), "a key is shown once");
    let about = listed["keys"].as_array().expect("a list").iter().find(|key| key["name"] == "ci");
    assert!(about.is_some_and(|about| about["revoked_at"].is_null()), "{listed}");
    world.admin.delete("/keys/ci").await.ok();
    ci.post("/tasks", body).await.refused(401);
    ci.get("/tasks").await.refused(401);
    world.admin.delete("/keys/no-such-key").await.refused(404);
    world.end().await;
}

/// Each call with the callers that may not make it: they get a 403. Without a valid key it is a
/// 401.
pub async fn calls_beyond_the_callers_role_are_refused<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let (user, agent, approver, admin) = (&world.user, &world.agent, &world.approver, &world.admin);
    let calls: [(Method, &str, Value, &[_]); 12] = [
        (Method::GET, "/tasks", Value::Null, &[]),
        (Method::GET, "/tasks/x/timeline", Value::Null, &[]),
        (Method::GET, "/events", Value::Null, &[]),
        (Method::GET, "/approvals/pending", Value::Null, &[]),
        (Method::POST, "/tasks", json!({}), &[user, approver]),
        (Method::PATCH, "/tasks/x/status", json!({"status": "completed"}), &[user, approver]),
        (Method::POST, "/tasks/x/cancel", json!({}), &[user, approver]),
        (Method::POST, "/events/publish", json!({}), &[user, approver]),
        (Method::POST, "/approvals/approval_x/approve", json!({}), &[user, agent]),
        (Method::POST, "/tasks/x/answer", json!({"text": "x"}), &[user, agent]),
        (Method::GET, "/keys", Value::Null, &[user, agent, approver]),
        (Method::POST, "/tenants", json!({"tenant": "acme"}), &[user, agent, approver, admin]),
    ];
    for (method, path, body, refused) in calls {
        let body = Some(&body).filter(|body| !body.is_null());
        for caller in [user, agent, approver, admin] {
            let answer = caller.send(method.clone(), path, body, None).await.expect("it answers");
            let may = !refused.iter().any(|one| std::ptr::eq(*one, caller));
            assert_eq!(answer.status != 403, may, "{method} {path}: {}", answer.body);
        }
        for key in ["", "not-a-key-of-this-place"] {
            let stranger = world.user.with_key(key);
            let answer = stranger.send(method.clone(), path, body, None).await;
            answer.expect("it answers").refused(401);
        }
    }
    for path in ["/", "/health", "/stats", "/openapi.json"] {
        world.user.with_key("").get(path).await.ok();
    }
    world.end().await;
}

pub async fn the_audit_says_who_did_what<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let made = world.admin.post("/keys", json!({"name": "audited", "role": "user"})).await.ok();
    world.admin.delete("/keys/audited").await.ok();
    let body = json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P1"});
    let task = id(&world.agent.submit(body).await);
    world.approver.post(&format!("/approvals/approval_{task}/approve"), json!({})).await.ok();
    world.user.until(&task, "completed").await;
    world.backend.settled(&world.user).await;
    let audit = world.admin.all("/audit?", "entries").await;
    let of = |kind: &str| audit.iter().filter(|entry| entry["kind"] == kind).collect::<Vec<_>>();
    for kind in ["key_created", "key_revoked"] {
        let found = of(kind).into_iter().find(|entry| entry["subject"] == "audited");
        assert!(found.is_some_and(|entry| entry["actor"] != ""), "{kind} is not in {audit:?}");
    }
    for kind in ["created", "approved", "completed"] {
        let found = of(kind).into_iter().find(|entry| entry["task_id"] == *task);
        assert!(found.is_some(), "{kind} is not in {audit:?}");
    }
    let said = serde_json::to_string(&audit).expect("JSON");
    assert!(!said.contains(made["key"].as_str().expect("it is shown once")), "{said}");
    let only = world.admin.all(&format!("/audit?task={task}&kind=approved"), "entries").await;
    assert_eq!(only.len(), 1, "{only:?}");
    for caller in [&world.user, &world.agent, &world.approver] {
        caller.get("/audit").await.refused(403);
        caller.get("/audit/batches").await.refused(403);
    }
    world.end().await;
}

pub async fn errors_say_what_was_wrong<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let unknown = json!({"type": "make_coffee", "payload": {}});
    let said = world.agent.post("/tasks", unknown).await.refused(400);
    assert!(said.contains("make_coffee"), "{said}");
    let twice = json!({"type": "monitor", "priority": "P9"});
    let answer = world.agent.post("/tasks", twice).await;
    let fields: Vec<_> = answer.body["errors"]
        .as_array()
        .expect("the fields that are wrong")
        .iter()
        .filter_map(|error| error["field"].as_str().map(str::to_owned))
        .collect();
    answer.refused(400);
    for field in ["payload", "priority"] {
        assert!(fields.iter().any(|found| found == field), "{field} is not in {fields:?}");
    }
    let large = json!({"type": "monitor", "payload": {"text": "x".repeat(201 * 1024)}});
    world.agent.post("/tasks", large).await.refused(413);
    let missing = world.user.get("/tasks/no-such-task").await.refused(404);
    assert!(missing.contains("no-such-task") && missing.contains("not found"), "{missing}");
    world.user.get("/tasks?status=lost").await.refused(400);
    assert!(world.user.all("/tasks?", "tasks").await.is_empty(), "no task was created");
    world.end().await;
}
