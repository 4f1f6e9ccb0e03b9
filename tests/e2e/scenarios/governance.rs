//! Scenarios of governance, seen from outside: trust levels, policy, links, quorum and freezes.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::notices::receive_notice;
use super::tasks::id;
use crate::e2e::{Backend, Settings, World};
use crate::support::Client;

fn deployment(environment: &str) -> Value {
    json!({"type": "deploy", "payload": {"project": "shop", "environment": environment}})
}

async fn reputation(client: &Client) -> (f64, String) {
    let agent = client.get("/agents/ops").await.ok()["agent"].clone();
    let level = agent["level"].as_str().expect("an agent has a level").to_owned();
    (agent["score"].as_f64().expect("an agent has a score"), level)
}

/// Waits until the agent's score and level are as wanted.
async fn until_reputation(client: &Client, wanted: (f64, &str)) {
    let mut seen = reputation(client).await;
    for _ in 0..200 {
        if (seen.0, seen.1.as_str()) == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        seen = reputation(client).await;
    }
    panic!("the agent has {seen:?}, wanted {wanted:?}");
}

async fn cancel<B: Backend>(world: &World<B>, task: &str) {
    world.agent.post(&format!("/tasks/{task}/cancel"), json!({})).await.ok();
    world.user.until(task, "cancelled").await;
}

/// A new agent deploys only to a sandbox. A person may approve one plan, and the first success
/// raises the agent's level.
pub async fn a_success_raises_the_trust_level<B: Backend>() {
    let world = World::<B>::start(Settings::default()).await;
    assert_eq!(reputation(&world.user).await, (100.0, "sandbox_only".to_owned()));
    let task = id(&world.agent.submit(deployment("staging")).await);
    let blocked = world.user.until(&task, "blocked").await;
    let approval = format!("approval_{task}");
    assert_eq!(blocked["approval_id"], json!(approval));
    let shown = world.user.get(&format!("/approvals/{approval}")).await.ok()["approval"].clone();
    let reasons = shown["reasons"].to_string();
    assert!(reasons.contains("staging_access") && reasons.contains("sandbox_only"), "{reasons}");
    assert_eq!(shown["shown"]["target"]["environment"], "staging");
    world.approver.post(&format!("/approvals/{approval}/approve"), json!({})).await.ok();
    // It runs now as far as it can: no deployer is configured.
    let events = world.user.events_until(&task, "task.started").await;
    assert!(events.iter().any(|event| event["event_type"] == "approval.approved"), "{events:?}");
    let blocked = world.user.until(&task, "blocked").await;
    let why = blocked["error"].as_str().unwrap_or_default();
    assert!(why.contains("no deployer is configured"), "{why}");
    let timeline = world.user.timeline(&task).await;
    let passed = timeline.iter().any(|entry| {
        entry["text"].as_str().is_some_and(|text| text.contains("permitted by approval"))
    });
    assert!(passed, "the log names the approval that permitted it: {timeline:?}");
    cancel(&world, &task).await;
    let first = json!({"type": "monitor", "payload": {"service": "system"}});
    let first = id(&world.agent.submit(first).await);
    world.user.until(&first, "completed").await;
    until_reputation(&world.user, (102.0, "staging_access")).await;
    let task = id(&world.agent.submit(deployment("staging")).await);
    let blocked = world.user.until(&task, "blocked").await;
    assert!(blocked["approval_id"].is_null(), "its level permits it: {blocked}");
    cancel(&world, &task).await;
    let events = world.user.all("/agents/ops_agent/events?", "events").await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["event"], &events[0]["delta"]), (&json!("task_success"), &json!(2)));
    world.end().await;
}

/// A call that policy denies fails, lowers the agent's score and is reported.
pub async fn a_call_that_policy_denies_is_recorded<B: Backend>() {
    let policy = r#"{"gates": {"all": "off"}, "tools": [{"name": "no-bank", "tools": ["deploy"],
        "when": "args.project == 'bank'", "say": "deny", "reason": "the bank deploys itself"},
        {"name": "others", "tools": ["deploy"], "when": "args.project != 'bank'", "say": "allow",
        "reason": "anything else goes"}]}"#;
    let settings = Settings { policy: Some(policy), ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let payload = json!({"project": "bank", "environment": "sandbox"});
    let task = json!({"type": "deploy", "payload": payload});
    let task = id(&world.agent.submit(task).await);
    let failed = world.user.until(&task, "failed").await;
    let why = failed["error"].as_str().unwrap_or_default();
    assert!(why.starts_with("Permission denied: ") && why.contains("no-bank"), "{why}");
    assert!(failed["started_at"].is_null(), "{failed}");
    let events = world.user.events_until(&task, "alert.triggered").await;
    assert!(events.iter().any(|event| event["event_type"] == "permission.denied"), "{events:?}");
    // The alert creates its own task.
    let mut alerts = Vec::new();
    for _ in 0..300 {
        alerts = world.user.all("/tasks?type=alert&status=completed", "tasks").await;
        if !alerts.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let alert = alerts.first().expect("the alert has a completed task");
    assert_eq!(alert["payload"]["alert_type"], "permission_denied");
    // 8 points less for the denial, 2 more for the alert.
    until_reputation(&world.user, (94.0, "staging_access")).await;
    let score_delta = world.user.all("/agents/ops/events?", "events").await;
    let score_delta: Vec<_> =
        score_delta.iter().map(|line| (&line["event"], &line["delta"])).collect();
    let wanted = [(&json!("task_success"), &json!(2)), (&json!("permission_denied"), &json!(-8))];
    assert_eq!(score_delta, wanted);
    let task = id(&world.agent.submit(deployment("sandbox")).await);
    let blocked = world.user.until(&task, "blocked").await;
    assert!(blocked["error"].as_str().is_some_and(|why| why.contains("no deployer")), "{blocked}");
    cancel(&world, &task).await;
    world.end().await;
}

/// A notice of an approval shows what is requested, with a link. Viewing decides nothing, the
/// first click decides, and the second one gets a conflict.
pub async fn an_approval_link_decides_once<B: Backend>() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let webhook = Some(format!("http://{address}/hooks/watchbill"));
    let world = World::<B>::start(Settings { webhook, ..Settings::default() }).await;
    let urgent = json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P0"});
    let (received, task) = tokio::join!(receive_notice(&listener, 204), world.agent.submit(urgent));
    let (notice, task) = (received.1, id(&task));
    assert_eq!(notice["type"], "approval.requested");
    let approval = &notice["approval"];
    assert_eq!(approval["approval_id"], json!(format!("approval_{task}")));
    let text = approval["text"].as_str().expect("it is shown what is asked");
    let hash = approval["plan_hash"].as_str().expect("a hash");
    assert!(text.contains("monitor") && text.contains(&hash[..12]), "{text}");
    let url = approval["url"].as_str().expect("a link");
    let (_, token) = url.rsplit_once("/links#").expect("a link");
    let browser = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
    let browser = browser.expect("a client needs nothing from outside");
    let send = |fields: String| {
        let (url, form) =
            (format!("{}/links", world.backend.url()), "application/x-www-form-urlencoded");
        browser.post(url).header("content-type", form).body(fields).send()
    };
    for _ in 0..2 {
        let page = send(format!("token={token}")).await.expect("it answers");
        assert_eq!(page.status(), 200);
        let page = page.text().await.expect("a page");
        let form = "<form method=\"post\" action=\"links\">";
        assert!(page.contains("Approve") && page.contains(form), "{page}");
    }
    assert_eq!(world.user.task(&task).await["status"], "pending", "viewing decides nothing");
    let click = |token: String| send(format!("token={token}&decision=approve"));
    let mut forged = token.to_owned();
    forged.replace_range(3..4, if &forged[3..4] == "A" { "B" } else { "A" });
    assert_eq!(click(forged).await.expect("it answers").status(), 404);
    let (one, other) = tokio::join!(click(token.to_owned()), click(token.to_owned()));
    let answers = [one.expect("it answers").status(), other.expect("it answers").status()];
    assert!(answers.contains(&reqwest::StatusCode::OK), "{answers:?}");
    assert!(answers.contains(&reqwest::StatusCode::CONFLICT), "a double click: {answers:?}");
    assert_eq!(click(token.to_owned()).await.expect("it answers").status(), 409);
    world.user.until(&task, "completed").await;
    let history = world.user.all("/approvals/history?", "history").await;
    assert_eq!(history[0]["approved_by"], "on-call");
    world.end().await;
}

/// Two people must approve where policy requires two.
pub async fn two_must_approve_where_policy_requires_it<B: Backend>() {
    let policy = Some(r#"{"gates": {"all": "on"}, "quorum": 2}"#);
    let world = World::<B>::start(Settings { policy, ..Settings::default() }).await;
    let urgent = json!({"type": "monitor", "payload": {"service": "system"}, "priority": "P1"});
    let task = id(&world.agent.submit(urgent).await);
    let approve = format!("/approvals/approval_{task}/approve");
    let first = world.approver.post(&approve, json!({})).await.ok();
    assert!(first["message"].as_str().is_some_and(|said| said.contains("1 of 2")), "{first}");
    world.approver.post(&approve, json!({})).await.refused(409);
    assert_eq!(world.user.task(&task).await["status"], "pending");
    world.admin.post(&approve, json!({})).await.ok();
    world.user.until(&task, "completed").await;
    world.end().await;
}

/// A freeze in the policy defers a deployment. Without the freeze it continues within two
/// minutes, not only at its next regular check.
pub async fn a_deferred_task_runs_when_the_freeze_is_lifted<B: Backend>() {
    let policy = r#"{"gates": {"all": "off"}, "freezes": [{"name": "release", "environments":
        ["sandbox"], "from": "2026-01-01T00:00:00Z", "until": "2126-01-01T00:00:00Z"}]}"#;
    let world = World::<B>::start(Settings { policy: Some(policy), ..Settings::default() }).await;
    let task = id(&world.agent.submit(deployment("sandbox")).await);
    let held = async || {
        let timeline = world.user.timeline(&task).await;
        timeline.iter().any(|entry| entry["text"].to_string().contains("release"))
    };
    let mut looks = 0;
    while !held().await {
        looks += 1;
        assert!(
            looks < 300,
            "the freeze does not defer it: {:?}",
            world.user.timeline(&task).await
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    world.backend.set_policy(r#"{"gates": {"all": "off"}}"#).await;
    let mut now = Value::Null;
    for _ in 0..1_200 {
        now = world.user.get(&format!("/tasks/{task}")).await.ok()["task"].clone();
        if now["status"] == "blocked" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(now["error"].as_str().is_some_and(|why| why.contains("no deployer")), "{now}");
    cancel(&world, &task).await;
    world.end_before_its_references().await;
}
