//! Scenarios of tasks: submission, retries, cancellation, payloads and priorities.

use serde_json::{Value, json};

use crate::e2e::{Backend, Settings, World};
use crate::support::changes;

fn monitor() -> Value {
    json!({"type": "monitor", "payload": {"service": "system"}})
}

pub fn id(task: &Value) -> String {
    task["task_id"].as_str().expect("a task has an id").to_owned()
}

/// The names of a task's changes, in order.
pub fn story(timeline: &[Value]) -> Vec<&str> {
    changes(timeline).filter_map(|change| change["what"].as_str()).collect()
}

pub async fn a_task_runs_to_its_result<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let answer = world.agent.post("/tasks", monitor()).await.ok();
    assert_eq!(answer["message"], "Task created and assigned to ops");
    let task = id(&answer["task"]);
    let done = world.user.until(&task, "completed").await;
    let result = &done["metadata"]["result"];
    assert!(result["metrics"]["memory"]["total_bytes"].as_u64() > Some(0), "{result}");
    let health = result["health"]["status"].as_str();
    assert!(["healthy", "degraded", "unhealthy"].map(Some).contains(&health), "{result}");
    assert!(done["created_at"].as_str() <= done["started_at"].as_str(), "{done}");
    assert!(done["started_at"].as_str() <= done["completed_at"].as_str(), "{done}");

    let timeline = world.user.timeline(&task).await;
    assert_eq!(story(&timeline), ["created", "claimed", "completed"]);
    let steps = timeline.iter().filter(|entry| entry["kind"] == "step");
    let steps: Vec<_> = steps.filter_map(|step| step["what"].as_str()).collect();
    assert_eq!(steps, ["observe", "orient", "decide", "act"]);
    let events = world.user.events_until(&task, "task.completed").await;
    let types: Vec<_> = events.iter().filter_map(|event| event["event_type"].as_str()).collect();
    assert_eq!(types, ["task.created", "task.started", "task.completed"]);
    world.end().await;
}

pub async fn a_repeat_is_the_same_task<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let body = monitor();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (agent, body) = (world.agent.clone(), body.clone());
        asking.spawn(async move {
            let asked = agent.send(reqwest::Method::POST, "/tasks", Some(&body), Some("once"));
            asked.await.expect("it answers").ok()
        });
    }
    let answers = asking.join_all().await;
    let first = &answers[0];
    for answer in &answers {
        assert_eq!(answer["task_id"], first["task_id"]);
        assert_eq!(answer["message"], first["message"]);
    }
    let post = |body: Value, key: &'static str| {
        let agent = world.agent.clone();
        async move { agent.send(reqwest::Method::POST, "/tasks", Some(&body), Some(key)).await }
    };
    let other = json!({"type": "monitor", "payload": {"service": "system", "timeout": 3}});
    post(other, "once").await.expect("it answers").refused(409);
    let another = post(body.clone(), "twice").await.expect("it answers").ok();
    assert_ne!(another["task_id"], first["task_id"]);
    let by_admin = world.admin.send(reqwest::Method::POST, "/tasks", Some(&body), Some("once"));
    let by_admin = by_admin.await.expect("it answers").ok();
    assert_ne!(by_admin["task_id"], first["task_id"], "idempotency keys are per caller");
    for answer in [first, &another, &by_admin] {
        world.user.until(&id(answer), "completed").await;
    }
    let repeated = post(body, "once").await.expect("it answers").ok();
    assert_eq!(repeated["message"], first["message"]);
    assert_eq!(repeated["task"]["status"], "completed", "the task as it is now");
    assert_eq!(world.user.all("/tasks?", "tasks").await.len(), 3);
    world.end().await;
}

pub async fn child_tasks_and_their_parent_name_each_other<B: Backend>() {
    let settings = Settings { external: &["dev"], ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let bugfix = json!({"type": "bugfix", "payload": {"description": "the login fails"}});
    let whole = id(&world.agent.submit(bugfix).await);
    let mut part = monitor();
    part["parent_task_id"] = json!(whole);
    let mut parts =
        [id(&world.agent.submit(part.clone()).await), id(&world.agent.submit(part.clone()).await)];
    parts.sort();
    for part in &parts {
        let done = world.user.until(part, "completed").await;
        assert_eq!(done["parent_task_id"], json!(whole));
    }
    let mut children: Vec<_> = match world.user.task(&whole).await["child_task_ids"].take() {
        Value::Array(ids) => ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect(),
        other => panic!("no list: {other}"),
    };
    children.sort();
    assert_eq!(children, parts);
    let listed = world.user.all(&format!("/tasks?parent_task_id={whole}"), "tasks").await;
    assert_eq!(listed.len(), 2);
    part["parent_task_id"] = json!("nobody-knows-it");
    let answer = world.agent.post("/tasks", part).await;
    assert!([400, 404].contains(&answer.status), "{}", answer.body);
    assert!(answer.body["detail"].as_str().is_some_and(|d| d.contains("nobody-knows-it")));
    world.agent.post(&format!("/tasks/{whole}/cancel"), json!({})).await.ok();
    world.end().await;
}

pub async fn a_cancelled_task_stays_cancelled<B: Backend>() {
    let settings = Settings { external: &["dev"], ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let mut waiting = monitor();
    waiting["priority"] = json!("P1");
    let waiting = id(&world.agent.submit(waiting).await);
    let assigned = json!({"type": "bugfix", "payload": {"description": "x"}});
    let assigned = id(&world.agent.submit(assigned).await);
    for task in [&waiting, &assigned] {
        let cancel = format!("/tasks/{task}/cancel");
        let answer = world.agent.post(&cancel, json!({"reason": "not needed"})).await.ok();
        assert_eq!(answer["status"], "cancelled");
        assert!(answer["task"]["error"].as_str().is_some_and(|e| e.contains("not needed")));
        let again = world.agent.post(&cancel, json!({})).await.refused(409);
        assert!(again.contains("cancelled"), "{again}");
    }
    let approval = world.user.get(&format!("/approvals/approval_{waiting}")).await.ok();
    assert_eq!(approval["approval"]["status"], "cancelled");
    let approve = format!("/approvals/approval_{waiting}/approve");
    world.approver.post(&approve, json!({})).await.refused(409);
    let path = format!("/tasks/{assigned}/status");
    world.agent.patch(&path, json!({"status": "in_progress"})).await.refused(409);
    world.end().await;
}

pub async fn retrying_a_failed_task_creates_another_task<B: Backend>() {
    let settings = Settings { external: &["dev"], ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let bugfix = json!({"type": "bugfix", "payload": {"description": "x"}});
    let task = id(&world.agent.submit(bugfix).await);
    let failed = json!({"status": "failed", "error": "the build is broken"});
    world.agent.patch(&format!("/tasks/{task}/status"), failed).await.ok();
    let ended = world.user.task(&task).await;
    assert_eq!(
        (&ended["status"], &ended["error"]),
        (&json!("failed"), &json!("the build is broken"))
    );
    let again = world.agent.post(&format!("/tasks/{task}/retry"), json!({})).await.ok();
    let anew = id(&again["task"]);
    assert_ne!(anew, task, "an ended task is not reopened");
    assert_eq!(again["task"]["metadata"]["retry_of"], json!(task));
    let twice = world.agent.post(&format!("/tasks/{task}/retry"), json!({})).await.ok();
    assert_eq!(id(&twice["task"]), anew, "a repeated request creates no second retry");
    let done = json!({"status": "completed", "result": {"commit": "abc"}});
    world.agent.patch(&format!("/tasks/{anew}/status"), done).await.ok();
    world.end().await;
}

pub async fn a_task_of_an_agent_that_is_not_built_is_blocked<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    // Too large for the table: the claim reads it from the blob store.
    let payload = json!({"description": "say how", "environment": "staging", "log": lines(10_500)});
    for (task_type, agent) in [("faq", "faq"), ("bugfix", "dev"), ("devops", "devops")] {
        let body = json!({"type": task_type, "payload": payload});
        let answer = world.agent.post("/tasks", body).await.ok();
        let message = answer["message"].as_str().expect("a message");
        assert!(message.starts_with(&format!("Task created and assigned to {agent}")), "{message}");
        let blocked = &answer["task"];
        let task = id(blocked);
        assert_eq!(
            (&blocked["status"], &blocked["assigned_to"]),
            (&json!("blocked"), &json!(agent)),
            "at once, without a run"
        );
        let why = blocked["error"].as_str().expect("it says why");
        assert!(why.starts_with("agent_not_built"), "{why}");
        assert!(why.contains(task_type) && why.contains("not part of this build"), "{why}");
        assert!(why.contains(&format!("EXTERNAL_AGENTS={agent}")), "it says what to do: {why}");
        assert!(blocked["completed_at"].is_null() && blocked["metadata"]["result"].is_null());
        // A worker finds it like an assigned task, and claims it.
        let waiting = format!("/tasks?assigned_to={agent}&status=assigned&wait=20");
        let found = world.agent.get(&waiting).await.ok();
        assert_eq!((&found["count"], &found["tasks"][0]["task_id"]), (&json!(1), &json!(task)));
        let path = format!("/tasks/{task}/status");
        world.agent.patch(&path, json!({"status": "in_progress"})).await.ok();
        world.agent.patch(&path, json!({"status": "completed", "result": {"n": 1}})).await.ok();
        let timeline = world.user.timeline(&task).await;
        assert_eq!(story(&timeline), ["created", "claimed", "completed"]);
    }
    world.end().await;
}

/// A run limited to a millisecond never gets its metrics, which take a quarter of a second.
pub async fn a_task_fails_after_its_last_retry<B: Backend>() {
    let settings =
        Settings { run_limit: Some("0.001"), retry_wait: Some("0.002"), ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let mut body = monitor();
    body["max_retries"] = json!(2);
    let task = id(&world.agent.submit(body).await);
    let failed = world.user.until(&task, "failed").await;
    assert_eq!((&failed["retry_count"], &failed["max_retries"]), (&json!(2), &json!(2)));
    assert!(failed["error"].as_str().is_some_and(|error| !error.is_empty()), "{failed}");
    let timeline = world.user.timeline(&task).await;
    let expected = ["created", "claimed", "retrying", "claimed", "retrying", "claimed", "failed"];
    assert_eq!(story(&timeline), expected);
    let events = world.user.events_until(&task, "task.failed").await;
    let again = events.iter().filter(|event| event["event_type"] == "task.assigned");
    let counts: Vec<_> = again.map(|event| event["payload"]["retry_count"].as_u64()).collect();
    assert_eq!(counts, [Some(1), Some(2)]);
    world.end().await;
}

pub async fn an_invalid_payload_fails_without_retries<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let body = json!({"type": "monitor", "payload": {"service": "shop", "url": "no url"}});
    let task = id(&world.agent.submit(body).await);
    let failed = world.user.until(&task, "failed").await;
    assert_eq!(failed["retry_count"], 0, "a retry would fail in the same way");
    let why = failed["error"].as_str().unwrap_or_default();
    assert!(why.contains("payload.url") && why.contains("no url"), "{why}");
    world.end().await;
}

/// A text with ten bytes per line.
fn lines(count: usize) -> String {
    (0..count).map(|n| format!("line {n:04}\n")).collect()
}

/// A payload that does not fit next to its task is stored elsewhere, and the worker gets it.
pub async fn a_large_payload_is_read<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let note = lines(10_500);
    let body = json!({"type": "monitor", "payload": {"service": "system", "note": note}});
    let task = id(&world.agent.submit(body).await);
    let done = world.user.until(&task, "completed").await;
    assert_eq!(done["payload"]["note"], json!(note));
    assert_eq!(done["metadata"]["result"]["success"], true);
    world.end().await;
}

/// Characters that SQS accepts in no message, or that JSON escapes, in the id, the trace id and
/// the payload.
pub async fn ids_and_payloads_may_contain_any_characters<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let odd = "a\u{fffe}b\u{ffff}c\u{2028}d\u{1f980}";
    let body = json!({"task_id": odd, "type": "monitor", "payload": {"service": "system", "note": odd},
                      "metadata": {"trace_id": odd}});
    assert_eq!(id(&world.agent.submit(body).await), odd);
    let done = world.user.until(odd, "completed").await;
    assert_eq!(
        (&done["payload"]["note"], &done["metadata"]["trace_id"]),
        (&json!(odd), &json!(odd))
    );
    let events = world.user.events_until(odd, "task.completed").await;
    assert!(
        events.iter().all(|event| event["task_id"] == odd && event["trace_id"] == odd),
        "{events:?}"
    );
    world.end().await;
}

pub async fn p0_overtakes<B: Backend>() {
    let settings = Settings { gates_off: true, crowded: true, ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let submit = |priority: &'static str| {
        let (agent, mut body) = (world.agent.clone(), monitor());
        body["priority"] = json!(priority);
        async move { id(&agent.submit(body).await) }
    };
    let mut backlog = tokio::task::JoinSet::new();
    let (crowd, most) = world.backend.crowd();
    for _ in 0..crowd {
        backlog.spawn(submit("P3"));
    }
    let backlog = backlog.join_all().await;
    let urgent = submit("P0").await;
    let urgent = world.user.until(&urgent, "completed").await;
    let mut between = 0;
    for task in backlog {
        let task = world.user.until(&task, "completed").await;
        let started = task["started_at"].as_str();
        let overtook =
            urgent["created_at"].as_str() < started && started < urgent["started_at"].as_str();
        between += usize::from(overtook);
    }
    assert!(between <= most, "{between} P3 were started while a P0 waited");
    world.end().await;
}

pub async fn work_survives_a_restart<B: Backend>() {
    let settings = Settings { external: &["dev"], ..Settings::default() };
    let mut world = World::<B>::start(settings).await;
    let claimed = json!({"type": "bugfix", "payload": {"description": "x"}});
    let claimed = id(&world.agent.submit(claimed).await);
    let status = format!("/tasks/{claimed}/status");
    world.agent.patch(&status, json!({"status": "in_progress"})).await.ok();
    let mut waiting = monitor();
    waiting["priority"] = json!("P1");
    let waiting = id(&world.agent.submit(waiting).await);
    let plain: Vec<_> = {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(id(&world.agent.submit(monitor()).await));
        }
        ids
    };
    world.backend.restart().await;
    for task in &plain {
        world.user.until(task, "completed").await;
    }
    let approve = format!("/approvals/approval_{waiting}/approve");
    world.approver.post(&approve, json!({})).await.ok();
    world.user.until(&waiting, "completed").await;
    // The worker does not notice the restart, and completes its task.
    world.agent.patch(&status, json!({"status": "completed"})).await.ok();
    world.end().await;
}

/// It examines the tasks of this installation: here, one that failed a moment before.
pub async fn an_investigation_looks_at_recent_tasks<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    let failing = json!({"type": "monitor", "payload": {"service": "shop", "url": "no url"}});
    let failed = id(&world.agent.submit(failing).await);
    world.user.until(&failed, "failed").await;
    let body = json!({"type": "investigate", "payload": {"description": "why is the shop slow?"}});
    let task = id(&world.agent.submit(body).await);
    let done = world.user.until(&task, "completed").await;
    let findings = done["metadata"]["result"]["findings"].to_string();
    assert!(findings.contains("Monitor shop") && findings.contains("no url"), "{findings}");
    world.end().await;
}
