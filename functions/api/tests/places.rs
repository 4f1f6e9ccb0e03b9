//! Waiting calls that each run in their own process: their number is bounded over all processes.

use std::sync::Arc;
use std::time::Duration;

use watchbill_api::{ApiConfig, ApiState};
use watchbill_core::ports::Clock as _;
use watchbill_core::service::WaitBounds;

use crate::common::{ADMIN, Api, Got, OTHER, USER, api_by_hand, ask, config};
use serde_json::json;
use tokio::task::JoinHandle;

const BOUNDS: WaitBounds = WaitBounds { all: 3, tenant: 2 };

fn config_here() -> ApiConfig {
    ApiConfig { waits: Some(BOUNDS), ..config() }
}

/// Another process over the same store.
fn another(api: &Api) -> Api {
    let state = ApiState::new(api.core.clone(), config_here()).unwrap();
    Api {
        router: watchbill_api::router(state),
        core: api.core.clone(),
        clock: api.clock.clone(),
        store: api.store.clone(),
        blobs: api.blobs.clone(),
    }
}

async fn waiting(api: &Api, key: &str, path: &str) -> JoinHandle<Got> {
    let sleepers = api.clock.sleepers();
    let (one, key, path) = (Arc::new(another(api)), key.to_owned(), path.to_owned());
    let call = tokio::spawn(async move { ask("GET", &path).key(&key).of(&one).await });
    while api.clock.sleepers() == sleepers && !call.is_finished() {
        tokio::task::yield_now().await;
    }
    call
}

/// Advances the clock until the call is answered.
async fn answered(api: &Api, call: JoinHandle<Got>) -> Got {
    while !call.is_finished() {
        api.clock.advance_to_next();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    call.await.unwrap()
}

const PATH: &str = "/tasks?status=blocked&wait=20";

#[tokio::test]
async fn calls_that_wait_are_bounded_over_all_processes() {
    let api = api_by_hand(config_here());
    let (one, two) = (waiting(&api, USER, PATH).await, waiting(&api, ADMIN, PATH).await);
    let third = waiting(&api, USER, PATH).await.await.unwrap();
    assert!(third.problem(429)["detail"].as_str().unwrap().contains("this tenant"));
    assert!(!third.header("retry-after").is_empty());
    // Calls that do not wait, or need not, are answered.
    assert_eq!(ask("GET", "/tasks").key(USER).of(&api).await.status, 200);
    let made = ask("POST", "/tasks")
        .key(ADMIN)
        .json(&json!({"type": "monitor", "payload": {"service": "x"}}))
        .of(&api)
        .await;
    let path =
        format!("/tasks/{}?version=0&wait=20", made.json()["task"]["task_id"].as_str().unwrap());
    assert_eq!(ask("GET", &path).key(USER).of(&api).await.status, 200);
    // Another tenant has its own places, as long as the total allows it.
    let other = waiting(&api, OTHER, PATH).await;
    let last = waiting(&api, OTHER, PATH).await.await.unwrap();
    assert!(last.problem(503)["detail"].as_str().unwrap().contains("this server"));
    // All places are released.
    for call in [one, two, other] {
        assert_eq!(answered(&api, call).await.status, 200);
    }
    for _ in 0..2 {
        let call = waiting(&api, USER, PATH).await;
        assert_eq!(answered(&api, call).await.status, 200);
    }
}

/// If a process ends while its call waits, its place is free again by when the wait would have
/// ended.
#[tokio::test]
async fn places_of_calls_that_vanish_are_free_again() {
    let api = api_by_hand(config_here());
    let lost = [waiting(&api, USER, PATH).await, waiting(&api, USER, PATH).await];
    for call in lost {
        call.abort();
        assert!(call.await.is_err());
    }
    let full = waiting(&api, USER, PATH).await.await.unwrap();
    full.problem(429);
    api.clock.advance(Duration::from_secs(26));
    let before = api.clock.monotonic();
    let call = waiting(&api, USER, PATH).await;
    assert_eq!(answered(&api, call).await.status, 200);
    assert!(api.clock.monotonic() - before >= Duration::from_secs(20), "it waited");
}
