//! Scenario of secrets that must be redacted everywhere.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::notices::receive_notice;
use super::tasks::id;
use crate::e2e::{Backend, Settings, World};
use crate::support::TIMEOUT_ON_AWS;

/// Part of every canary, and of nothing else.
const MARK: &str = "CANARY";

/// Secrets that are recognisable by their form, with typical text around them.
fn said() -> String {
    [
        "ghp_CANARY0123456789abcdefghij",
        "sk-CANARY0123456789abcdefgh",
        "AKIACANARYCANARYCAN0",
        "password=CANARY1",
        "{\"password\":\"CANARY with blanks\"}",
        "postgres://app:CANARY@db:5432/x",
        "Authorization: Bearer CANARY.1",
        "https://b.example.com/o?X-Amz-Signature=CANARY1&x=1",
        "eyJCANARY0123.CANARY0123.CANARY0123",
        "{\"cookie\":\"a=CANARY1\",\"ssh_key\":\"CANARY2\"}",
        "[{\"name\":\"DB_PASSWORD\",\"value\":\"CANARY3\"}]",
        "pass=CANARY4 pw := CANARY5",
        "db:\n  password: |\n    CANARY with blanks\n  host: db",
        "<password>CANARY6</password>",
        "curl -u bob:CANARY7 https://b.example.com",
        "mysql -u root -pCANARY8 shop",
        "app:CANARY9@tcp(db:3306)/shop",
        "mysql://app:ab/CANARY@10#x@db/x",
        "pass\u{1b}[1mword\u{1b}[0m=CANARY11",
        "pass\u{200b}word=CANARY12",
    ]
    .join("\n")
}

/// The same under telling field names, and in every field that an agent reads.
fn payload(more: Value) -> Value {
    let mut payload = json!({
        "password": "CANARY in plain words", "nested": {"api_key": ["CANARY"]},
        "ghp_CANARY0123456789abcdefghij": 1, "description": said(), "notes": [said()],
    });
    let fields = payload.as_object_mut().expect("it is an object");
    fields.extend(more.as_object().expect("it is an object").clone());
    payload
}

#[track_caller]
fn clean(what: &str, text: &str) {
    if let Some(at) = text.find(MARK) {
        let near: String = text[..at].chars().rev().take(200).collect();
        let near: String = near.chars().rev().collect();
        panic!("{what} shows a secret after: {near}");
    }
}

/// A submitted secret is in no response, event, notice or log.
pub async fn no_secret_is_shown_sent_or_logged<B: Backend>() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let webhook = Some(format!("http://{address}/hooks/watchbill"));
    let settings = Settings { webhook, external: &["dev"], ..Settings::default() };
    let world = World::<B>::start(settings).await;
    let notices = Arc::new(Mutex::new(Vec::<Value>::new()));
    let heard = notices.clone();
    let listening = tokio::spawn(async move {
        loop {
            let (_, notice) = receive_notice(&listener, 204).await;
            heard.lock().expect("nobody panics with it").push(notice);
        }
    });

    let url = format!("no url {}", said());
    let body =
        json!({"type": "monitor", "payload": payload(json!({"service": "shop", "url": url}))});
    let failed = id(&world.agent.submit(body).await);
    world.user.until(&failed, "failed").await;

    let more = json!({"project": said(), "environment": "production"});
    let asked = json!({"type": "deploy", "payload": payload(more), "metadata": payload(json!({}))});
    let rejected = id(&world.agent.submit(asked).await);
    let approval = format!("/approvals/approval_{rejected}");
    let shown = world.user.get(&approval).await.ok();
    clean("an approval", &shown.to_string());
    let reason = json!({"reason": said()});
    clean(
        "a decision",
        &world.approver.post(&format!("{approval}/reject"), reason).await.ok().to_string(),
    );

    let body = json!({"type": "bugfix", "payload": payload(json!({}))});
    let done = id(&world.agent.submit(body).await);
    let result = json!({"status": "completed", "result": payload(json!({"log": said()}))});
    world.agent.patch(&format!("/tasks/{done}/status"), result).await.ok();

    let event = json!({
        "event_type": "deploy.failed", "source_agent": "ci", "payload": payload(json!({})),
    });
    clean("an event's answer", &world.agent.post("/events/publish", event).await.ok().to_string());
    let odd = json!({"type": said(), "payload": {}, "priority": said()});
    clean("a refusal", &world.agent.post("/tasks", odd).await.refused(400));

    world.backend.settled(&world.user).await;
    for (path, name) in
        [("/tasks?", "tasks"), ("/events?", "events"), ("/approvals/history?", "history")]
    {
        let all = world.user.all(path, name).await;
        assert!(!all.is_empty(), "{name}");
        clean(name, &json!(all).to_string());
    }
    clean("the audit", &json!(world.admin.all("/audit?", "entries").await).to_string());
    for task in [&failed, &rejected, &done] {
        clean("a task", &world.user.task(task).await.to_string());
        clean("a timeline", &json!(world.user.timeline(task).await).to_string());
    }
    let notified = async {
        let about = |notice: &Value| notice["data"]["task_id"] == json!(failed);
        while !notices.lock().expect("nobody panics with it").iter().any(about) {
            tokio::time::sleep(world.backend.late()).await;
        }
    };
    let came = tokio::time::timeout(TIMEOUT_ON_AWS, notified).await;
    came.expect("the failure is sent to the webhook");
    clean("a notice", &json!(*notices.lock().expect("nobody panics with it")).to_string());
    clean("the log", &world.backend.log().await);
    listening.abort();
    world.end().await;
}
