//! Calls that are held open: how many each caller may hold, and that a revoked key, an expired
//! token or a changed caller ends them.

use std::sync::Arc;
use std::time::Duration;

use watchbill_api::ApiConfig;
use watchbill_core::ports::{Clock as _, Commit, Entropy as _, Precondition, Store as _, Write};
use watchbill_core::repo::{KeyRecord, Versioned, api_key, decode, encode};
use watchbill_domain::{Caller, Role, TenantId};
use watchbill_testkit::SeededEntropy;

use crate::common::{ADMIN, AGENT, Api, Got, OTHER, USER, api, api_by_hand, ask, config};
use axum::body::{Body, BodyDataStream};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Within this time every unauthorized call has ended.
const FEW_SECONDS: Duration = Duration::from_secs(5);
/// Added to a token's end, because clocks of machines may differ.
const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

async fn new_key(api: &Api, name: &str) -> String {
    let body = json!({ "name": name, "role": "user" });
    let made = ask("POST", "/keys").key(ADMIN).json(&body).of(api).await.json();
    made["key"].as_str().unwrap().to_owned()
}

async fn revoke(api: &Api, name: &str) {
    let got = ask("DELETE", &format!("/keys/{name}")).key(ADMIN).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
}

/// Revokes a key as another instance of the API does: only the store shows it here.
async fn revoke_elsewhere(api: &Api, name: &str) {
    let admin = Caller {
        name: "root".into(),
        role: Role::Admin,
        tenant: TenantId::default(),
        made_by: None,
    };
    api.core.keys().revoke(&admin, name).await.unwrap();
}

async fn publish(api: &Api) {
    use watchbill_core::ledger::Entry;
    use watchbill_wire::EventView;
    let body = json!({ "event_type": "ci.passed", "source_agent": "ci", "payload": {} });
    let made = ask("POST", "/events/publish").key(AGENT).json(&body).of(api).await.json();
    let view = json!({
        "event_id": made["event_id"], "event_type": "ci.passed", "priority": "medium",
        "source_agent": "ci", "trace_id": "t", "task_id": null, "payload": {},
        "timestamp": "2025-10-20T10:00:00.000Z", "metadata": {},
    });
    let view: EventView = serde_json::from_value(view).unwrap();
    let event = watchbill_domain::Event::try_from(view).unwrap();
    api.append(&TenantId::default(), vec![Entry::Published(event)]).await;
}

async fn stream_of(api: &Api, key: &str) -> BodyDataStream {
    let call = ask("GET", "/events").key(key).header("accept", "text/event-stream");
    following(call.send(api).await).await
}

async fn following(answer: axum::response::Response) -> BodyDataStream {
    assert_eq!(answer.status(), 200);
    let mut stream = answer.into_body().into_data_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), ": following\n\n");
    stream
}

/// How long the stream continues, and what it sends.
async fn rest(api: &Api, stream: BodyDataStream) -> (Duration, Vec<String>) {
    let from = api.clock.monotonic();
    let chunks: Vec<_> = stream.collect().await;
    let texts = chunks.into_iter().map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap());
    (api.clock.monotonic() - from, texts.collect())
}

#[tokio::test]
async fn the_stream_of_a_revoked_key_ends_within_seconds_though_nothing_happens() {
    let api = api();
    for elsewhere in [false, true] {
        let name = format!("dashboard-{elsewhere}");
        let key = new_key(&api, &name).await;
        let stream = stream_of(&api, &key).await;
        let other = stream_of(&api, USER).await;
        match elsewhere {
            false => revoke(&api, &name).await,
            true => revoke_elsewhere(&api, &name).await,
        }
        let (took, brought) = rest(&api, stream).await;
        assert!(took <= FEW_SECONDS && brought.is_empty(), "{took:?}: {brought:?}");
        let (took, brought) = rest(&api, other).await;
        assert!(took > Duration::from_secs(500) && brought.len() > 30, "{took:?}: {brought:?}");
    }
}

#[tokio::test]
async fn data_read_for_a_revoked_key_is_not_sent_later() {
    let api = api();
    let key = new_key(&api, "slow").await;
    let mut stream = stream_of(&api, &key).await;
    for _ in 0..3 {
        publish(&api).await;
    }
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"id: "), "{first:?}");
    revoke(&api, "slow").await;
    api.clock.advance(FEW_SECONDS);
    assert!(stream.next().await.is_none(), "two more were read, and are not for it any more");
}

#[tokio::test]
async fn a_stream_that_is_read_late_ends_at_its_time() {
    let api = api();
    let mut stream = stream_of(&api, USER).await;
    for _ in 0..3 {
        publish(&api).await;
    }
    assert!(stream.next().await.is_some());
    api.clock.advance(Duration::from_secs(600));
    assert!(stream.next().await.is_none(), "what is left over does not prolong it");
}

async fn token(api: &Api, seconds: u64) -> String {
    let body = json!({ "sub": "dashboard", "role": "user", "expires_in": seconds });
    let made = ask("POST", "/auth/token").key(ADMIN).json(&body).of(api).await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    made.json()["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_stream_of_a_token_ends_with_it() {
    let api = api();
    let token = token(&api, 60).await;
    let call = ask("GET", "/events").bearer(&token).header("accept", "text/event-stream");
    let stream = following(call.send(&api).await).await;
    let (took, _) = rest(&api, stream).await;
    let ends = Duration::from_secs(60) + CLOCK_LEEWAY;
    assert!(took >= ends - FEW_SECONDS && took <= ends + FEW_SECONDS, "{took:?}");
}

/// Changes a stored key, as an operator's tool might.
async fn change(api: &Api, secret: &str, edit: impl FnOnce(&mut KeyRecord)) {
    let key = api_key(&watchbill_domain::hash_key(secret));
    let item = api.store.get(&key).await.unwrap().unwrap();
    let mut stored: Versioned<KeyRecord> = decode(&item).unwrap();
    let version = item.version;
    edit(&mut stored.value);
    let item = encode(&stored.value, None);
    let writes = vec![Write::Put { item, expect: Precondition::Version(version) }];
    let id = SeededEntropy::new(version).write_id();
    api.store.commit(Commit { id, writes }).await.unwrap();
}

#[tokio::test]
async fn another_role_and_another_tenant_end_a_stream_too() {
    let api = api();
    for (name, edit) in [
        ("promoted", (|key| key.0.role = Role::Admin) as fn(&mut KeyRecord)),
        ("moved", |key| key.0.tenant = TenantId::parse("other").unwrap()),
    ] {
        let key = new_key(&api, name).await;
        let stream = stream_of(&api, &key).await;
        change(&api, &key, edit).await;
        let (took, brought) = rest(&api, stream).await;
        assert!(took <= FEW_SECONDS && brought.is_empty(), "{name}: {took:?}");
    }
}

/// Starts a call and returns when it is waiting.
async fn waiting(api: &Arc<Api>, path: String, key: &str) -> JoinHandle<Got> {
    let sleepers = api.clock.sleepers();
    let (held, key) = (api.clone(), key.to_owned());
    let call = tokio::spawn(async move { ask("GET", &path).key(&key).of(&held).await });
    while api.clock.sleepers() == sleepers && !call.is_finished() {
        tokio::task::yield_now().await;
    }
    call
}

/// Advances the clock until the call is answered; returns how long that took.
async fn answered(api: &Api, call: JoinHandle<Got>) -> (Duration, Got) {
    let from = api.clock.monotonic();
    while !call.is_finished() {
        api.clock.advance_to_next();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    (api.clock.monotonic() - from, call.await.unwrap())
}

#[tokio::test]
async fn waiting_calls_of_a_revoked_key_and_an_ended_token_are_answered_with_401() {
    let api = Arc::new(api_by_hand(config()));
    let task = api.create(json!({ "type": "faq", "payload": {} })).await;
    let (id, version) = (task["task_id"].as_str().unwrap(), &task["task"]["version"]);
    publish(&api).await;
    let events = ask("GET", "/events").key(USER).of(&api).await.json();
    let last = events["events"][0]["event_id"].as_str().unwrap();
    let calls = [
        "/tasks?type=deploy&wait=20".to_owned(),
        format!("/tasks/{id}?version={version}&wait=20"),
        format!("/events?after={last}&wait=20"),
    ];
    for (n, path) in calls.iter().enumerate() {
        let name = format!("key-{n}");
        let key = new_key(&api, &name).await;
        let call = waiting(&api, path.clone(), &key).await;
        revoke_elsewhere(&api, &name).await;
        let (took, got) = answered(&api, call).await;
        got.problem(401);
        assert!(took <= FEW_SECONDS, "{path}: {took:?}");
        let call = waiting(&api, path.clone(), USER).await;
        let (took, got) = answered(&api, call).await;
        assert_eq!((got.status.as_u16(), took.as_secs()), (200, 20), "{path}: a key that stands");
    }
}

#[tokio::test]
async fn a_key_takes_its_share_of_waiting_calls_and_no_more() {
    let api = Arc::new(api_by_hand(config()));
    let path = || "/tasks?type=deploy&wait=20".to_owned();
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(waiting(&api, path(), USER).await);
    }
    let refused = waiting(&api, path(), USER).await;
    assert!(refused.is_finished(), "one more than its share waits");
    let refused = refused.await.unwrap();
    refused.problem(503);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(ask("GET", "/tasks").key(USER).of(&api).await.status, 200, "without waiting");
    for key in [AGENT, OTHER] {
        let call = waiting(&api, path(), key).await;
        assert!(!call.is_finished(), "others of the tenant, and other tenants, wait");
        held.push(call);
    }
    for call in held {
        assert_eq!(answered(&api, call).await.1.status, 200);
    }
    let again = waiting(&api, path(), USER).await;
    assert_eq!(answered(&api, again).await.1.status, 200);
}

fn unfinished() -> Body {
    let begun = stream::iter([Ok::<_, std::io::Error>(r#"{"type":"#)]);
    Body::from_stream(begun.chain(stream::pending()))
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_in_time_and_takes_no_more_than_a_share() {
    let api = Arc::new(api_by_hand(config()));
    let half = |key: &'static str| {
        let api = api.clone();
        tokio::spawn(async move { ask("POST", "/tasks").key(key).raw(unfinished()).of(&api).await })
    };
    let mut held = Vec::new();
    loop {
        let (call, sleepers) = (half(AGENT), api.clock.sleepers());
        while api.clock.sleepers() == sleepers && !call.is_finished() {
            tokio::task::yield_now().await;
        }
        if call.is_finished() {
            call.await.unwrap().problem(503);
            break;
        }
        held.push(call);
        assert!(held.len() < 64, "80 MB of one key");
    }
    let body: Value = json!({ "type": "faq", "payload": {} });
    for key in [ADMIN, OTHER] {
        assert_eq!(ask("POST", "/tasks").key(key).json(&body).of(&api).await.status, 200);
    }
    for call in held {
        let (_, got) = answered(&api, call).await;
        got.problem(408);
    }
    assert_eq!(api.clock.monotonic(), Duration::from_secs(30));
    assert_eq!(ask("POST", "/tasks").key(AGENT).json(&body).of(&api).await.status, 200);
}

/// A host with few connections gives each kind of call a part of them.
#[tokio::test]
async fn calls_at_work_are_bounded_too() {
    let api = Arc::new(api_by_hand(ApiConfig { connections: Some(64), ..config() }));
    let half = |key: &'static str| {
        let api = api.clone();
        tokio::spawn(async move { ask("POST", "/tasks").key(key).raw(unfinished()).of(&api).await })
    };
    let mut held = Vec::new();
    let refused = loop {
        let (call, sleepers) = (half(AGENT), api.clock.sleepers());
        while api.clock.sleepers() == sleepers && !call.is_finished() {
            tokio::task::yield_now().await;
        }
        if call.is_finished() {
            break call.await.unwrap();
        }
        held.push(call);
        assert!(held.len() <= 8, "half of the sixteen that all may have at work");
    };
    let detail = refused.problem(503)["detail"].to_string();
    assert!(
        held.len() == 8 && detail.contains("limit of running calls"),
        "{}: {detail}",
        held.len()
    );
    assert_eq!(ask("GET", "/tasks").key(OTHER).of(&api).await.status, 200);
}

#[tokio::test]
async fn answers_that_are_not_read_are_bounded_in_bytes() {
    let api = api();
    let large = || ask("GET", "/openapi.json");
    let (mut held, mut bytes) = (Vec::new(), 0);
    loop {
        let answer = large().key(USER).send(&api).await;
        if answer.status() == 503 {
            assert!(answer.headers().contains_key("retry-after"));
            break;
        }
        bytes += axum::body::HttpBody::size_hint(answer.body()).exact().unwrap();
        held.push(answer);
        assert!(bytes <= 32 << 20, "{bytes} bytes of one key");
    }
    assert!(bytes > 31 << 20, "{bytes} bytes, then no more");
    assert_eq!(ask("GET", "/").key(USER).of(&api).await.status, 200, "small ones go on");
    // Another caller of the tenant takes from the rest of the tenant's part.
    let (mut of_tenant, mut more) = (bytes, Vec::new());
    loop {
        let answer = large().key(AGENT).send(&api).await;
        if answer.status() == 503 {
            break;
        }
        of_tenant += axum::body::HttpBody::size_hint(answer.body()).exact().unwrap();
        more.push(answer);
        assert!(of_tenant <= 64 << 20, "{of_tenant} bytes of one tenant");
    }
    assert!(of_tenant > bytes && of_tenant <= 48 << 20, "a quarter is for who holds nothing yet");
    drop(more);
    assert_eq!(large().key(OTHER).of(&api).await.status, 200);
    assert_eq!(large().of(&api).await.status, 200);
    // What the connection still references counts, though the response itself is dropped.
    let last = held.pop().unwrap().into_body().into_data_stream().next().await.unwrap().unwrap();
    assert_eq!(large().key(USER).of(&api).await.status, 503);
    drop(last);
    assert_eq!(large().key(USER).of(&api).await.status, 200);
}
