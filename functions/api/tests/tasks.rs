//! Tasks and approvals over HTTP.

use std::collections::BTreeSet;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Commit, NewItem, Precondition, Store as _, Write, WriteId};
use watchbill_domain::Agent;

use crate::common::{ADMIN, AGENT, APPROVER, OTHER, USER, api, api_with, ask, config};
use serde_json::json;

fn plain() -> serde_json::Value {
    json!({ "type": "monitor", "payload": { "service": "system" } })
}

#[tokio::test]
async fn a_task_is_created_and_read_as_the_original_does() {
    let api = api();
    let created = api.create(plain()).await;
    assert_eq!(created["success"], true);
    assert_eq!(created["message"], "Task created and assigned to ops");
    let id = created["task_id"].as_str().unwrap();
    let task = &created["task"];
    for (field, value) in [
        ("task_id", json!(id)),
        ("type", json!("monitor")),
        ("priority", json!("P2")),
        ("source", json!("user")),
        ("status", json!("assigned")),
        ("payload", json!({ "service": "system" })),
        ("assigned_to", json!("ops")),
        ("created_at", json!("2025-10-20T10:00:00.000Z")),
        ("started_at", json!(null)),
        ("completed_at", json!(null)),
        ("parent_task_id", json!(null)),
        ("child_task_ids", json!([])),
        ("error", json!(null)),
        ("retry_count", json!(0)),
        ("max_retries", json!(3)),
        ("tenant_id", json!("default")),
        ("version", json!(1)),
        ("approval_id", json!(null)),
    ] {
        assert_eq!(task[field], value, "{field}");
    }
    assert_eq!(task["sla"]["deadline"], "2025-10-20T18:00:00.000Z");
    assert_eq!(task["sla"]["alert_threshold"], 80);
    let got = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.json()["task"], *task);
    assert_eq!(got.json()["task_id"], id);
}

#[tokio::test]
async fn a_gated_task_says_what_it_waits_for_and_is_approved_by_another() {
    let api = api();
    let body = json!({ "type": "deploy", "payload": { "project": "shop" }, "priority": "P1" });
    let created = api.create(body).await;
    let id = created["task_id"].as_str().unwrap();
    let message = format!("Task created and assigned to ops; waiting for approval approval_{id}");
    assert_eq!(created["message"], message.as_str());
    assert_eq!(created["task"]["status"], "pending");
    assert_eq!(created["task"]["assigned_to"], "ops");
    assert_eq!(created["task"]["approval_id"], format!("approval_{id}"));

    let pending = ask("GET", "/approvals/pending").key(USER).of(&api).await.json();
    assert_eq!((&pending["success"], &pending["count"]), (&json!(true), &json!(1)));
    assert_eq!(pending["approvals"][0]["task_id"], id);
    let path = format!("/approvals/approval_{id}");
    let one = ask("GET", &path).key(USER).of(&api).await.json();
    assert_eq!(one["approval"]["status"], "pending");

    ask("POST", &format!("{path}/approve")).key(AGENT).of(&api).await.problem(403);
    let got = ask("POST", &format!("{path}/approve")).key(APPROVER).of(&api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    assert_eq!(got.json()["message"], "Approved by alice");
    assert_eq!(got.json()["approval_id"], format!("approval_{id}"));
    ask("POST", &format!("{path}/reject")).key(APPROVER).of(&api).await.problem(409);
    let task = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.json();
    assert_eq!(task["task"]["status"], "assigned");
    let history = ask("GET", "/approvals/history?limit=5").key(USER).of(&api).await.json();
    assert_eq!(history["history"][0]["approved_by"], "alice");
}

/// With `approvals.agents` an agent decides on what others submitted, and has no other right of
/// approvers.
#[tokio::test]
async fn agents_decide_where_the_rules_say_so_and_never_on_their_own() {
    let rules = EngineConfig { agents_approve: true, approve_own: true, ..EngineConfig::default() };
    let api = api_with(config(), rules);
    let body = json!({ "type": "deploy", "payload": { "project": "shop" } });
    let own = api.create(body.clone()).await["task_id"].as_str().unwrap().to_owned();
    for word in ["approve", "reject"] {
        let path = format!("/approvals/approval_{own}/{word}");
        let refused = ask("POST", &path).key(AGENT).of(&api).await.problem(403);
        assert!(refused["detail"].as_str().unwrap().contains("its own tasks"), "{refused}");
        ask("POST", &path).key(USER).of(&api).await.problem(403);
    }
    let answer = format!("/tasks/{own}/answer");
    let text = json!({ "text": "yes" });
    ask("POST", &answer).key(AGENT).json(&text).of(&api).await.problem(403);
    for (word, status) in [("approve", "assigned"), ("reject", "cancelled")] {
        let made = ask("POST", "/tasks").key(ADMIN).json(&body).of(&api).await.json();
        let id = made["task_id"].as_str().unwrap();
        let path = format!("/approvals/approval_{id}/{word}");
        let elsewhere = ask("POST", &path).key(OTHER).of(&api).await;
        assert_eq!(elsewhere.status, 404);
        let got = ask("POST", &path).key(AGENT).of(&api).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        let task = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.json();
        assert_eq!(task["task"]["status"], status);
        let approval = ask("GET", &format!("/approvals/approval_{id}")).key(USER).of(&api).await;
        assert_eq!(approval.json()["approval"]["approver"], "worker");
    }
}

/// Otherwise one key would be its own gate.
#[tokio::test]
async fn an_agent_does_not_run_what_it_approved() {
    let external = [watchbill_domain::Agent::Devops].into();
    let rules = EngineConfig { agents_approve: true, external, ..EngineConfig::default() };
    let api = api_with(config(), rules);
    let body = json!({ "type": "deploy", "payload": { "project": "shop" } });
    let made = ask("POST", "/tasks").key(ADMIN).json(&body).of(&api).await.json();
    let id = made["task_id"].as_str().unwrap();
    let path = format!("/approvals/approval_{id}/approve");
    assert_eq!(ask("POST", &path).key(AGENT).of(&api).await.status, 200);
    let path = format!("/tasks/{id}/status");
    for status in ["in_progress", "completed"] {
        let claim = json!({ "status": status });
        let refused = ask("PATCH", &path).key(AGENT).json(&claim).of(&api).await.problem(409);
        assert!(refused["detail"].as_str().unwrap().contains("has approved it"), "{refused}");
    }
    let claim = json!({ "status": "in_progress" });
    assert_eq!(ask("PATCH", &path).key(ADMIN).json(&claim).of(&api).await.status, 200);
}

#[tokio::test]
async fn a_rejected_task_is_cancelled() {
    let api = api();
    let body = json!({ "type": "deploy", "payload": {} });
    let id = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    let path = format!("/approvals/approval_{id}/reject?reason=not%20now");
    let got = ask("POST", &path).key(APPROVER).of(&api).await;
    assert_eq!(got.json()["message"], "Rejected by alice");
    let task = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.json();
    assert_eq!(task["task"]["status"], "cancelled");
    let one = ask("GET", &format!("/approvals/approval_{id}")).key(USER).of(&api).await.json();
    assert_eq!(one["approval"]["rejected_by"], "alice");
    assert_eq!(one["approval"]["reason"], "not now");
}

#[tokio::test]
async fn a_task_that_has_an_id_keeps_it() {
    let api = api();
    let body =
        |id: &str, n: u32| json!({ "type": "monitor", "payload": { "n": n }, "task_id": id });
    let post = |body: serde_json::Value| ask("POST", "/tasks").key(AGENT).json(&body);
    for id in ["task-1", "a.b:c=d é", "approval_task-1", "...", ".x", &"x".repeat(128)] {
        let created = api.create(body(id, 1)).await;
        assert_eq!((&created["task_id"], &created["task"]["task_id"]), (&json!(id), &json!(id)));
        let again = api.create(body(id, 1)).await;
        assert_eq!(again["task"], created["task"], "a repeat is the same task");
        let clash = post(body(id, 2)).of(&api).await.problem(409);
        let detail = clash["detail"].as_str().unwrap();
        assert!(detail.contains(id) && detail.contains("another task_id"), "{detail}");
    }
    let got = ask("GET", "/tasks/a.b%3Ac%3Dd%20%C3%A9").key(USER).of(&api).await;
    assert_eq!(got.json()["task"]["payload"]["n"], 1);

    let with_key = post(body("task-2", 1)).header("Idempotency-Key", "k").of(&api).await;
    assert_eq!(with_key.problem(409)["title"], "Conflict");
    for bad in ["", ".", "..", "a\nb", &"x".repeat(129), "ghp_CANARY0123456789abcdefghij"] {
        let problem = post(body(bad, 1)).of(&api).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], "task_id", "{bad}");
    }
    ask("GET", "/tasks/task-2").key(USER).of(&api).await.problem(404);
    let theirs = ask("POST", "/tasks").key(OTHER).json(&body("task-1", 9)).of(&api).await;
    assert_eq!(theirs.status, 200, "another tenant's tasks have ids of their own");
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_task() {
    let api = api();
    let send = |key: &str, body: serde_json::Value| {
        ask("POST", "/tasks").key(AGENT).header("Idempotency-Key", key).json(&body)
    };
    let gated = json!({ "type": "deploy", "payload": { "n": 1 } });
    let first = send("k1", gated.clone()).of(&api).await.json();
    let id = first["task_id"].as_str().unwrap();
    let approve = format!("/approvals/approval_{id}/approve");
    assert_eq!(ask("POST", &approve).key(APPROVER).of(&api).await.status, 200);
    let again = send("k1", gated).of(&api).await.json();
    assert_eq!(again["task_id"], first["task_id"]);
    assert_eq!(again["message"], first["message"]);
    assert_eq!(again["task"]["status"], "assigned", "the task as it is now");
    let other = json!({ "type": "deploy", "payload": { "n": 2 } });
    send("k1", other.clone()).of(&api).await.problem(409);
    assert_ne!(send("k2", other).of(&api).await.json()["task_id"], first["task_id"]);
    for bad in ["", "with space", &"x".repeat(256)] {
        let problem = send(bad, plain()).of(&api).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn an_external_worker_finds_runs_and_finishes_a_task() {
    let rules = EngineConfig { external: BTreeSet::from([Agent::Dev]), ..EngineConfig::default() };
    let api = api_with(config(), rules);
    let list = "/tasks?assigned_to=dev&status=assigned&wait=20";
    let before = api.clock_secs();
    let empty = ask("GET", list).key(AGENT).of(&api).await.json();
    assert_eq!((&empty["count"], &empty["tasks"]), (&json!(0), &json!([])));
    assert_eq!(api.clock_secs() - before, 20, "an empty page is held back for the whole wait");
    let body = json!({ "type": "bugfix", "payload": { "description": "fix it" } });
    let id = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    let found = ask("GET", list).key(AGENT).of(&api).await.json();
    assert_eq!(found["tasks"][0]["task_id"], id.as_str());
    let status = format!("/tasks/{id}/status");
    let claimed = ask("PATCH", &format!("{status}?status=in_progress")).key(AGENT).of(&api).await;
    assert_eq!(claimed.json(), json!({ "success": true, "task_id": id, "status": "in_progress" }));
    let done = json!({ "status": "completed", "result": { "pr": 7 } });
    ask("PATCH", &status).key(ADMIN).json(&done).of(&api).await.problem(409);
    let got = ask("PATCH", &status).key(AGENT).json(&done).of(&api).await;
    assert_eq!(got.json()["status"], "completed");
    let task = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.json();
    assert_eq!(task["task"]["metadata"]["result"], json!({ "pr": 7 }));
    assert!(task["task"]["completed_at"].is_string());
    let problem = ask("PATCH", &status).key(AGENT).json(&done).of(&api).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("completed"), "{problem}");
}

#[tokio::test]
async fn replicas_of_a_worker_share_a_key_and_no_claim() {
    let rules = EngineConfig { external: BTreeSet::from([Agent::Dev]), ..EngineConfig::default() };
    let api = api_with(config(), rules);
    let body = json!({ "type": "bugfix", "payload": { "description": "fix it" } });
    let id = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    let status = format!("/tasks/{id}/status");
    let patch =
        async |body: serde_json::Value| ask("PATCH", &status).key(AGENT).json(&body).of(&api).await;
    let claim = |worker: &str| json!({ "status": "in_progress", "worker": worker });
    let won = json!({ "success": true, "task_id": id, "status": "in_progress", "fence": 1 });
    assert_eq!(patch(claim("pod-1")).await.json(), won);
    assert_eq!(patch(claim("pod-1")).await.json(), won, "it may say so again");
    let lost = patch(claim("pod-2")).await.problem(409);
    assert!(lost["detail"].as_str().unwrap().contains("worker:worker/pod-1"), "{lost}");
    let by_query = format!("{status}?status=completed&worker=pod-1&fence=2");
    let stale = ask("PATCH", &by_query).key(AGENT).of(&api).await.problem(409);
    assert!(stale["detail"].as_str().unwrap().contains("fence 2 is stale"), "{stale}");
    let bare = patch(json!({ "status": "completed", "worker": "pod-1" })).await.problem(409);
    assert!(bare["detail"].as_str().unwrap().contains("`fence`"), "{bare}");
    let done = patch(json!({ "status": "completed", "worker": "pod-1", "fence": 1 })).await;
    assert_eq!(done.json(), json!({ "success": true, "task_id": id, "status": "completed" }));
    for (field, value) in [
        ("worker", json!("")),
        ("worker", json!("a b")),
        ("worker", json!("ghp_CANARY0123456789abcdefghij")),
        ("fence", json!(0)),
        ("fence", json!("1")),
    ] {
        let mut body = json!({ "status": "completed" });
        body[field] = value;
        assert_eq!(patch(body).await.problem(400)["errors"][0]["field"], field);
    }
}

#[tokio::test]
async fn a_follower_of_a_task_hears_of_its_change() {
    let api = api();
    let created = api.create(plain()).await;
    let id = created["task_id"].as_str().unwrap();
    let before = api.clock_secs();
    let same = ask("GET", &format!("/tasks/{id}?wait=5&version=1")).key(USER).of(&api).await;
    assert_eq!((same.json()["task"]["version"].as_u64(), api.clock_secs() - before), (Some(1), 5));
    let cancel = json!({ "reason": "no longer needed" });
    let got = ask("POST", &format!("/tasks/{id}/cancel")).key(AGENT).json(&cancel).of(&api).await;
    assert_eq!((got.json()["status"].as_str(), got.status.as_u16()), (Some("cancelled"), 200));
    let before = api.clock_secs();
    let later = ask("GET", &format!("/tasks/{id}?wait=20&version=1")).key(USER).of(&api).await;
    assert_eq!((later.json()["task"]["version"].as_u64(), api.clock_secs() - before), (Some(2), 0));
}

#[tokio::test]
async fn cancelled_tasks_are_retried_as_new_ones_and_open_ones_are_not_answered() {
    let api = api();
    let id = api.create(plain()).await["task_id"].as_str().unwrap().to_owned();
    let answer = json!({ "text": "yes" });
    let path = format!("/tasks/{id}/answer");
    ask("POST", &path).key(APPROVER).json(&answer).of(&api).await.problem(409);
    assert_eq!(ask("POST", &format!("/tasks/{id}/cancel")).key(AGENT).of(&api).await.status, 200);
    let retried = ask("POST", &format!("/tasks/{id}/retry")).key(AGENT).of(&api).await.json();
    assert_ne!(retried["task_id"], id.as_str());
    assert!(retried["message"].as_str().unwrap().contains(&id));
}

#[tokio::test]
async fn a_blocked_task_is_answered() {
    let api = api();
    let id = api.create(plain()).await["task_id"].as_str().unwrap().to_owned();
    let path = format!("/tasks/{id}/status?status=blocked&error=which%20one");
    assert_eq!(ask("PATCH", &path).key(AGENT).of(&api).await.status, 200);
    let path = format!("/tasks/{id}/answer");
    ask("POST", &path).key(AGENT).json(&json!({ "text": "a" })).of(&api).await.problem(403);
    let got =
        ask("POST", &path).key(APPROVER).json(&json!({ "text": "the second" })).of(&api).await;
    assert_eq!((got.status.as_u16(), got.json()["status"].as_str()), (200, Some("assigned")));
    let timeline = ask("GET", &format!("/tasks/{id}/timeline")).key(USER).of(&api).await.json();
    assert_eq!(timeline["timeline"][0]["what"], "created");
    assert!(timeline["count"].as_u64().unwrap() >= 3, "{timeline}");
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let api = api();
    let body = json!({ "type": "deploy", "payload": {} });
    let id = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    for (method, path) in [
        ("GET", format!("/tasks/{id}")),
        ("GET", format!("/tasks/{id}/timeline")),
        ("POST", format!("/tasks/{id}/cancel")),
        ("POST", format!("/tasks/{id}/retry")),
        ("PATCH", format!("/tasks/{id}/status?status=cancelled")),
        ("GET", format!("/approvals/approval_{id}")),
        ("POST", format!("/approvals/approval_{id}/approve")),
    ] {
        let problem = ask(method, &path).key(OTHER).of(&api).await.problem(404);
        assert!(problem["detail"].as_str().unwrap().contains("not found"), "{path}");
    }
    let list = ask("GET", "/tasks").key(OTHER).of(&api).await.json();
    assert_eq!(list["count"], 0);
    let child = json!({ "type": "faq", "payload": {}, "parent_task_id": id });
    ask("POST", "/tasks").key(OTHER).json(&child).of(&api).await.problem(404);
}

#[tokio::test]
async fn tasks_are_listed_newest_first_in_pages() {
    let api = api();
    let mut ids = Vec::new();
    for n in 0..5 {
        api.clock.advance(std::time::Duration::from_millis(10));
        let body = json!({ "type": "monitor", "payload": { "n": n }, "source": "webhook" });
        ids.push(api.create(body).await["task_id"].as_str().unwrap().to_owned());
    }
    ids.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/tasks?limit=2&source=webhook{cursor}");
        let page = ask("GET", &path).key(USER).of(&api).await.json();
        for task in page["tasks"].as_array().unwrap() {
            seen.push(task["task_id"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    ask("GET", "/tasks?cursor=nonsense").key(USER).of(&api).await.problem(400);
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn a_trace_comes_from_the_header_or_the_metadata() {
    let api = api();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut body = plain();
    body["metadata"] = json!({ "trace_id": "trace_xyz" });
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let got = ask("POST", "/tasks").key(AGENT).header("traceparent", &parent).json(&body);
    assert_eq!(got.of(&api).await.json()["task"]["trace_id"], trace);
    let got = ask("POST", "/tasks").key(AGENT).header("traceparent", "nonsense").json(&body);
    assert_eq!(got.of(&api).await.json()["task"]["trace_id"], "trace_xyz");
    let fresh = api.create(plain()).await;
    assert_eq!(fresh["task"]["trace_id"].as_str().unwrap().len(), 32);
}

/// A result over 100 KB is stored as a blob; readers of the task do not see where.
#[tokio::test]
async fn a_large_result_is_given_back_whole() {
    let api = api();
    let made = api.create(plain()).await;
    let path = format!("/tasks/{}", made["task"]["task_id"].as_str().unwrap());
    let result = json!({ "log": "x".repeat(150_000) });
    let body = json!({ "status": "completed", "result": result });
    let status = format!("{path}/status");
    let got = ask("PATCH", &status).key(AGENT).json(&body).of(&api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    assert_eq!(api.blobs.keys().len(), 1);
    let read = ask("GET", &path).key(AGENT).of(&api).await.json();
    assert_eq!(read["task"]["metadata"]["result"], result);
    let list = ask("GET", "/tasks").key(AGENT).of(&api).await.json();
    assert_eq!(list["tasks"][0]["metadata"]["result"]["left_out"]["bytes"], 150_010);
}

impl crate::common::Api {
    fn clock_secs(&self) -> u64 {
        use watchbill_core::ports::Clock as _;
        self.clock.monotonic().as_secs()
    }
}

/// Unreadable tasks are left out of a list, which reports their number.
#[tokio::test]
async fn a_list_reports_how_many_tasks_are_unreadable() {
    let api = api();
    for _ in 0..3 {
        api.create(plain()).await;
    }
    let list = ask("GET", "/tasks").key(USER).of(&api).await.json();
    assert_eq!((list["count"].as_u64(), list.get("unreadable")), (Some(3), None));
    let item = api.store.items().into_iter().find(|item| *item.kind == *"task").unwrap();
    let damaged = NewItem {
        key: item.key,
        kind: "task".into(),
        schema: 1,
        body: b"{".to_vec().into(),
        list: item.list,
        list2: item.list2,
        due: item.due,
        expires: item.expires,
    };
    let writes = vec![Write::Put { item: damaged, expect: Precondition::Version(item.version) }];
    api.store.commit(Commit { id: WriteId(9), writes }).await.unwrap();
    let list = ask("GET", "/tasks").key(USER).of(&api).await.json();
    assert_eq!((list["count"].as_u64(), list["unreadable"].as_u64()), (Some(2), Some(1)));
}
