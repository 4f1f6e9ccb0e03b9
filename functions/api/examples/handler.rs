//! Measures the API's handler for `POST /tasks` over a warm in-memory store: everything between
//! request and response except the network and the store. `cargo xtask bench handler` runs it.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::json;
use tower::ServiceExt as _;
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey, router};
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::{Core, Ports};
use watchbill_domain::{Role, TenantId, hash_key};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_testkit::{MemoryBlobs, MemoryStore, MemoryWake};

const KEY: &str = "bench-key-of-a-process-that-lives-for-a-second";
const WARM: usize = 1_000;
const CALLS: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "a duration is measured, nothing is decided")]
async fn main() -> anyhow::Result<()> {
    let ports = Ports {
        store: Arc::new(MemoryStore::new()),
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        wake: Arc::new(MemoryWake::new()),
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1)
        .planned_by(Arc::new(watchbill_catalog::planner()));
    let config = ApiConfig {
        static_keys: vec![StaticKey {
            name: "bench".into(),
            key_hash: hash_key(KEY),
            role: Role::Agent,
            tenant: TenantId::default(),
        }],
        rate_limits: RateLimits::parse("off")?,
        ..ApiConfig::default()
    };
    let router = router(ApiState::new(core, config)?);
    let mut took = Vec::with_capacity(CALLS);
    for call in 0..WARM + CALLS {
        let body = r#"{"type":"monitor","payload":{"service":"system"}}"#;
        let request = Request::post("/tasks")
            .header("content-type", "application/json")
            .header("x-api-key", KEY)
            .body(Body::from(body))?;
        let begun = Instant::now();
        let answer = router.clone().oneshot(request).await?;
        let status = answer.status();
        axum::body::to_bytes(answer.into_body(), usize::MAX).await?;
        if call >= WARM {
            took.push(begun.elapsed());
        }
        anyhow::ensure!(status == StatusCode::OK, "answered {status}");
    }
    took.sort_unstable();
    let micros = |place: usize| took[place].as_secs_f64() * 1e6;
    println!("{}", json!({ "p50_us": micros(CALLS / 2), "p99_us": micros(CALLS * 99 / 100) }));
    Ok(())
}
