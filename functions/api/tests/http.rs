//! HTTP behaviour: malformed, too large, too frequent and cross-origin calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use watchbill_api::{AgentInfo, ApiConfig, HealthReport, HealthSource, RateLimits};
use watchbill_core::decide::EngineConfig;
use watchbill_domain::Agent;

use crate::common::{ADMIN, AGENT, OTHER, USER, api, api_with, ask, config};
use async_trait::async_trait;
use axum::body::Body;
use futures_util::{FutureExt as _, stream};
use serde_json::json;

#[tokio::test]
async fn public_routes_answer_as_the_original_does() {
    let api = api();
    let root = ask("GET", "/").of(&api).await;
    assert_eq!(root.json()["status"], "running");
    assert!(root.json()["service"].is_string() && root.json()["version"].is_string());
    let health = ask("GET", "/health").of(&api).await.json();
    assert_eq!(
        health,
        json!({
            "status": "healthy", "redis": "disabled",
            "queue_stats": { "pending_tasks": 0, "processing_tasks": 0, "total_tasks": 0 },
            "counted_at": "2025-10-20T10:00:00.000Z",
            "governance": { "mode": "restrict", "state": "ok" }
        })
    );
    let stats = ask("GET", "/stats").of(&api).await.json();
    assert_eq!(stats["queue"]["total_tasks"], 0);
    assert_eq!(stats["timestamp"], "2025-10-20T10:00:00.000Z");
    assert_eq!(ask("HEAD", "/health").of(&api).await.status, 200);
    assert!(ask("HEAD", "/health").of(&api).await.body.is_empty());
    let docs = ask("GET", "/docs").of(&api).await;
    assert!(docs.header("content-type").starts_with("text/html"));
    let policy = docs.header("content-security-policy");
    assert!(policy.contains("script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn stats_are_by_agent_for_callers_with_a_role() {
    let api = api();
    let body = json!({ "type": "monitor", "payload": {} });
    let id = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    api.record(&id).await;
    let stats = ask("GET", "/stats").key(USER).of(&api).await.json();
    assert_eq!(stats["queue"]["pending_tasks"], 1);
    assert_eq!(stats["by_agent"]["ops"]["assigned"], 1);
    assert_eq!(stats["by_priority"]["P2"]["assigned"], 1);
    let agents = ask("GET", "/agents").key(USER).of(&api).await.json();
    for (field, value) in [
        ("agent", json!("ops")),
        ("name", json!("ops_agent")),
        ("built", json!(true)),
        ("status", json!("running")),
        ("tasks", json!({ "assigned": 1 })),
        ("score", json!(100.0)),
        ("level", json!("sandbox_only")),
    ] {
        assert_eq!(agents["agents"][0][field], value, "{field}");
    }
    assert_eq!(agents["agents"][1]["tasks"], json!({}));
    let of = async |path: &str, key| {
        let got = ask("GET", path).key(key).of(&api).await.json();
        got["agent"]["agent_id"].as_str().unwrap().to_owned()
    };
    let id = of("/agents/ops", USER).await;
    assert_eq!((id.len(), &json!(id)), (36, &agents["agents"][0]["agent_id"]));
    assert_eq!(of("/agents/ops_agent", USER).await, id, "the same at each call");
    assert_ne!(of("/agents/dev", USER).await, id);
    assert_ne!(of("/agents/ops", OTHER).await, id, "of each tenant its own");
}

#[test]
fn only_agents_that_run_are_said_to_run() {
    let rules =
        EngineConfig { external: [Agent::Faq, Agent::Ops].into(), ..EngineConfig::default() };
    for (agent, rules, paused, status) in [
        (Agent::Ops, &EngineConfig::default(), false, "running"),
        (Agent::Ops, &EngineConfig::default(), true, "paused"),
        (Agent::Ops, &rules, false, "external"),
        (Agent::Faq, &rules, false, "external"),
        (Agent::Dev, &rules, false, "not_built"),
        (Agent::Devops, &EngineConfig::default(), true, "not_built"),
    ] {
        assert_eq!(AgentInfo::new(agent, rules, paused).status, status, "{agent}");
    }
}

#[tokio::test]
async fn invalid_bodies_are_refused_with_a_reason() {
    let api = api();
    let deep = format!("{{\"type\":\"faq\",\"payload\":{}", "{\"a\":".repeat(100_000));
    for (body, word) in [
        ("", "empty"),
        ("not json", "line 1 column 2"),
        ("[1]", "object"),
        ("{\"type\":\"faq\",\"payload\":{}", "line 1"),
        (deep.as_str(), "line 1"),
    ] {
        let call = ask("POST", "/tasks").key(AGENT).header("content-type", "application/json");
        let problem = call.raw(body.to_owned()).of(&api).await.problem(400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{detail}");
    }
    let body = json!({ "type": "cook", "payload": [], "priority": "P9" });
    let problem = ask("POST", "/tasks").key(AGENT).json(&body).of(&api).await.problem(400);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);
    assert!(problem["detail"].as_str().unwrap().contains("'cook'"));
}

#[tokio::test]
async fn content_types_other_than_json_are_refused() {
    let api = api();
    let body = json!({ "type": "faq", "payload": {} }).to_string();
    let send = |kind: &str| {
        ask("POST", "/tasks").key(AGENT).header("content-type", kind).raw(body.clone())
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        send(kind).of(&api).await.problem(415);
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/x+json"] {
        assert_eq!(send(kind).of(&api).await.status, 200, "{kind}");
    }
    assert_eq!(ask("POST", "/tasks").key(AGENT).raw(body.clone()).of(&api).await.status, 200);
}

#[tokio::test]
async fn bodies_that_are_compressed_are_refused_by_name() {
    let api = api();
    let body = json!({ "type": "faq", "payload": {} }).to_string();
    let send = |coding: &str| {
        let call = ask("POST", "/tasks").key(AGENT).header("content-encoding", coding);
        call.raw(body.clone())
    };
    for coding in ["gzip", "br", "identity, deflate"] {
        let problem = send(coding).of(&api).await.problem(415);
        let detail = problem["detail"].as_str().unwrap();
        let named = coding.rsplit(", ").next().unwrap();
        assert!(
            detail.contains(&format!("'{named}'")) && detail.contains("uncompressed"),
            "{detail}"
        );
    }
    for coding in ["identity", "Identity", ""] {
        assert_eq!(send(coding).of(&api).await.status, 200, "{coding}");
    }
    let marked = ask("POST", "/tasks").key(AGENT).raw(format!("\u{feff}{body}"));
    let problem = marked.of(&api).await.problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("byte order mark"), "{problem}");
}

#[tokio::test]
async fn large_bodies_are_refused_without_reading_them_all() {
    let api = api();
    let said = ask("POST", "/tasks").key(AGENT).header("content-length", "10000000");
    said.raw("{}").of(&api).await.problem(413);
    // Without a length and without an end: reading stops at the limit.
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(" ".repeat(64 * 1024)));
    let call = ask("POST", "/tasks").key(AGENT).raw(Body::from_stream(endless));
    call.of(&api).await.problem(413);
    let body = |bytes| json!({ "type": "faq", "payload": { "d": "x".repeat(bytes) } });
    ask("POST", "/tasks").key(AGENT).json(&body(201 * 1024)).of(&api).await.problem(413);
    let got = ask("POST", "/tasks").key(AGENT).json(&body(199 * 1024)).of(&api).await;
    assert_eq!(got.status, 200);
    let event = json!({
        "event_type": "a.b", "source_agent": "x", "payload": { "d": "x".repeat(101 * 1024) }
    });
    ask("POST", "/events/publish").key(AGENT).json(&event).of(&api).await.problem(413);
    let broken = stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
    let call = ask("POST", "/tasks").key(AGENT).raw(Body::from_stream(broken));
    call.of(&api).await.problem(400);
}

#[tokio::test]
async fn invalid_ids_are_refused_or_not_found() {
    let api = api();
    for id in ["nothing", "%E2%82%AC", "a%2Fb", "approval_x", "%20"] {
        let problem = ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.problem(404);
        assert!(problem["detail"].as_str().unwrap().contains("not found"));
    }
    for id in ["%00", "a%0Ab", &"x".repeat(129), "%FF"] {
        ask("GET", &format!("/tasks/{id}")).key(USER).of(&api).await.problem(400);
    }
    for (method, path) in [
        ("GET", "/approvals/nothing"),
        ("POST", "/approvals/nothing/approve"),
        ("POST", "/approvals/nothing/reject"),
        ("DELETE", "/keys/nothing"),
        ("GET", "/events?after=nothing"),
        ("POST", "/tasks/nothing/retry"),
    ] {
        ask(method, path).key(ADMIN).of(&api).await.problem(404);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let api = api();
    let problem = ask("GET", "/nothing").of(&api).await.problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("'/nothing' not found"));
    ask("GET", "/tasks/").key(USER).of(&api).await.problem(404);
    let got = ask("PUT", "/tasks").key(ADMIN).of(&api).await;
    got.problem(405);
    let allow = got.header("allow");
    assert!(allow.contains("GET") && allow.contains("POST") && !allow.contains("PUT"), "{allow}");
    let got = ask("TRACE", "/tasks/x").of(&api).await;
    got.problem(405);
    assert!(got.header("allow").contains("GET"));
    let got = ask("OPTIONS", "/tasks").of(&api).await;
    assert_eq!((got.status.as_u16(), got.header("access-control-allow-origin")), (204, ""));
    assert!(got.header("allow").contains("POST"));
}

#[tokio::test]
async fn every_answer_is_hardened() {
    let api = api();
    for (method, path) in
        [("GET", "/"), ("GET", "/docs"), ("GET", "/nothing"), ("PUT", "/tasks"), ("GET", "/tasks")]
    {
        let got = ask(method, path).of(&api).await;
        assert_eq!(got.header("x-content-type-options"), "nosniff", "{path}");
        assert!(got.header("content-security-policy").contains("default-src 'none'"), "{path}");
        assert!(got.headers.get("x-ratelimit-limit").is_none(), "limits are off");
    }
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_for_the_next_minute() {
    let rate_limits = RateLimits::parse("POST /tasks=2,GET /health=3").unwrap();
    let api = api_with(ApiConfig { rate_limits, ..config() }, EngineConfig::default());
    let body = json!({ "type": "faq", "payload": {} });
    for left in ["1", "0"] {
        let got = ask("POST", "/tasks").key(AGENT).json(&body).of(&api).await;
        assert_eq!((got.status.as_u16(), got.header("x-ratelimit-remaining")), (200, left));
        assert_eq!(got.header("x-ratelimit-limit"), "2");
        assert_eq!(got.header("x-ratelimit-reset"), "1760954460");
    }
    api.clock.advance(Duration::from_millis(20_500));
    let got = ask("POST", "/tasks").key(AGENT).json(&body).of(&api).await;
    got.problem(429);
    assert_eq!((got.header("retry-after"), got.header("x-ratelimit-remaining")), ("40", "0"));
    assert_eq!(ask("POST", "/tasks").key(ADMIN).json(&body).of(&api).await.status, 200);
    assert_eq!(ask("GET", "/tasks").key(AGENT).of(&api).await.status, 200);
    api.clock.advance(Duration::from_millis(39_500));
    assert_eq!(ask("POST", "/tasks").key(AGENT).json(&body).of(&api).await.status, 200);
    for status in [200, 200, 200, 429] {
        let got = ask("GET", "/health").of(&api).await;
        assert_eq!(got.status, status);
        assert_eq!(got.header("x-ratelimit-limit"), "3");
    }
    for (method, path) in [("GET", "/nothing"), ("PUT", "/tasks"), ("GET", "/tasks")] {
        let got = ask(method, path).of(&api).await;
        assert_eq!(got.header("x-ratelimit-limit"), "60", "{path}");
    }
}

#[tokio::test]
async fn guesses_at_keys_are_limited_by_address() {
    use axum::extract::ConnectInfo;
    use tower::ServiceExt as _;
    let rate_limits = RateLimits::parse("*=2").unwrap();
    let api = api_with(ApiConfig { rate_limits, ..config() }, EngineConfig::default());
    let from = async |address: [u8; 4]| {
        let mut request =
            http::Request::get("/tasks").header("x-api-key", "guess").body(Body::empty()).unwrap();
        let peer = std::net::SocketAddr::from((address, 1000));
        request.extensions_mut().insert(ConnectInfo(peer));
        api.router.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for status in [401, 401, 429] {
        assert_eq!(from([10, 0, 0, 1]).await, status);
    }
    assert_eq!(from([10, 0, 0, 2]).await, 401);
}

#[tokio::test]
async fn only_named_origins_may_call() {
    let cors_origins = vec!["https://ops.example.com".to_owned()];
    let api = api_with(
        ApiConfig { cors_origins, cors_credentials: true, ..config() },
        EngineConfig::default(),
    );
    let from = |origin: &str| ask("GET", "/health").header("origin", origin);
    let got = from("https://ops.example.com").of(&api).await;
    assert_eq!(got.header("access-control-allow-origin"), "https://ops.example.com");
    assert_eq!(got.header("access-control-allow-credentials"), "true");
    assert_eq!(got.header("vary"), "Origin");
    for other in ["https://evil.example.com", "https://ops.example.com.evil.org", "null"] {
        let got = from(other).of(&api).await;
        assert!(got.headers.get("access-control-allow-origin").is_none(), "{other}");
    }
    let preflight = |origin: &str| {
        ask("OPTIONS", "/tasks")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
    };
    let got = preflight("https://ops.example.com").of(&api).await;
    assert_eq!(got.status, 204);
    assert!(got.header("access-control-allow-methods").contains("POST"));
    assert!(got.header("access-control-allow-headers").contains("X-API-Key"));
    let got = preflight("https://evil.example.com").of(&api).await;
    assert!(got.headers.get("access-control-allow-methods").is_none());
    let got = ask("GET", "/nothing").header("origin", "https://ops.example.com").of(&api).await;
    assert_eq!(got.header("access-control-allow-origin"), "https://ops.example.com");
}

struct Panics;

#[async_trait]
impl HealthSource for Panics {
    async fn report(&self) -> HealthReport {
        panic!("secret of the house");
    }
}

struct Lags;

#[async_trait]
impl HealthSource for Lags {
    async fn report(&self) -> HealthReport {
        let more = BTreeMap::from([("feed_lag_ms".to_owned(), json!(12))]);
        HealthReport { redis: "connected".into(), more }
    }
}

#[tokio::test]
async fn a_panic_fails_its_own_call_and_reveals_nothing() {
    let health = Some(Arc::new(Panics) as Arc<dyn HealthSource>);
    let api = api_with(ApiConfig { health, ..config() }, EngineConfig::default());
    for _ in 0..2 {
        let got = ask("GET", "/health").of(&api).await;
        got.problem(500);
        assert!(!String::from_utf8_lossy(&got.body).contains("secret"));
    }
    assert_eq!(ask("GET", "/").of(&api).await.status, 200);
    let health = Some(Arc::new(Lags) as Arc<dyn HealthSource>);
    let api = api_with(ApiConfig { health, ..config() }, EngineConfig::default());
    let health = ask("GET", "/health").of(&api).await.json();
    assert_eq!((&health["redis"], &health["feed_lag_ms"]), (&json!("connected"), &json!(12)));
    assert_eq!(health["governance"], json!({ "mode": "restrict", "state": "ok" }));
}

/// One thread serves all callers: a large response is serialized off it, and small ones
/// continue.
#[tokio::test]
async fn a_large_page_is_serialized_off_the_runtime() {
    let api = api();
    let body = json!({ "type": "monitor", "payload": {} });
    let small = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    let large = json!({ "type": "monitor", "payload": { "log": "x".repeat(80 * 1024) } });
    let large = api.create(large).await["task_id"].as_str().unwrap().to_owned();
    // All concurrent offload capacity is taken.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let mut busy = Vec::new();
    for _ in 0..64 {
        let (core, held) = (api.core.clone(), held.clone());
        let work = move |_: &_| held.lock().unwrap().recv().is_ok();
        busy.push(tokio::spawn(async move { core.context().offload().run(work).await }));
    }
    tokio::task::yield_now().await;
    let path = format!("/tasks/{large}");
    let mut page = std::pin::pin!(ask("GET", &path).key(USER).of(&api));
    for _ in 0..10 {
        assert!((&mut page).now_or_never().is_none(), "it was written right here");
        tokio::task::yield_now().await;
    }
    let path = format!("/tasks/{small}");
    assert_eq!(ask("GET", &path).key(USER).of(&api).await.status, 200);
    drop(release);
    assert_eq!(page.await.json()["task"]["task_id"], large);
    for work in busy {
        assert!(!work.await.unwrap());
    }
}

/// A cursor belongs to one list of one tenant; elsewhere it is refused by name.
#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let api = api();
    for _ in 0..3 {
        let id = api.create(json!({ "type": "monitor", "payload": {} })).await["task_id"].clone();
        api.record(id.as_str().unwrap()).await;
    }
    let cursor = async |path: &str| {
        let page = ask("GET", path).key(ADMIN).of(&api).await.json();
        page["next_cursor"].as_str().unwrap().to_owned()
    };
    let cursors = [
        ("/tasks", cursor("/tasks?limit=1").await),
        ("/events", cursor("/events?limit=1").await),
        ("/audit", cursor("/audit?limit=1").await),
    ];
    let lists = [
        "/tasks",
        "/events",
        "/audit",
        "/approvals/pending",
        "/approvals/history",
        "/agents/ops/events",
    ];
    for (of, cursor) in &cursors {
        for list in lists {
            let got = ask("GET", &format!("{list}?cursor={cursor}")).key(ADMIN).of(&api).await;
            if list == *of {
                assert_eq!(got.status, 200, "{list}: {:?}", got.body);
                continue;
            }
            let problem = got.problem(400);
            assert_eq!(problem["errors"][0]["field"], "cursor");
            assert!(got.detail().contains(&cursor[..12]), "{list}: {}", got.detail());
        }
        // Well formed, but of another tenant.
        let theirs = ask("GET", &format!("{of}?cursor={cursor}")).key(OTHER).of(&api).await;
        assert!(theirs.problem(404)["detail"].as_str().unwrap().contains("another tenant"));
    }
    let old = ask("GET", "/audit?cursor=5.18446744073709551615").key(ADMIN).of(&api).await;
    assert!(old.problem(400)["detail"].as_str().unwrap().contains("leave it out"));
}
