//! The first admin key, held by a secret store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use watchbill_api::ApiConfig;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::SecretSource;
use watchbill_wire::operator_key;

use crate::common::{ADMIN, Api, api_with, ask, config};
use async_trait::async_trait;

const FIRST: &str = "the-key-that-everything-begins-with";

/// A vault that counts its reads.
#[derive(Default)]
struct Vault {
    key: Mutex<Option<Arc<str>>>,
    asked: AtomicUsize,
}

#[async_trait]
impl SecretSource for Vault {
    async fn fetch(&self) -> Result<Arc<str>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.key.lock().unwrap().clone().ok_or_else(|| "sealed".to_owned())
    }
}

fn api(vault: &Arc<Vault>) -> Api {
    let config = ApiConfig { first_key: Some(vault.clone()), ..config() };
    api_with(config, EngineConfig::default())
}

#[tokio::test]
async fn the_first_key_creates_keys_and_no_other_key_matches() {
    let vault = Arc::new(Vault::default());
    *vault.key.lock().unwrap() = Some(FIRST.into());
    let api = api(&vault);
    let body = serde_json::json!({"name": "ci", "role": "agent"});
    let made = ask("POST", "/keys").key(FIRST).json(&body).of(&api).await.json();
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(ask("GET", "/tasks").key(&key).of(&api).await.status, 200);
    ask("GET", "/tasks").key("not-the-key-that-everything-begins-with").of(&api).await.problem(401);
}

/// The operator's key is derived from the same secret: it creates tenants, and nothing else.
#[tokio::test]
async fn the_derived_operator_key_creates_tenants() {
    let vault = Arc::new(Vault::default());
    *vault.key.lock().unwrap() = Some(FIRST.into());
    let api = api(&vault);
    let tenant = serde_json::json!({ "tenant": "acme" });
    ask("POST", "/tenants").key(FIRST).json(&tenant).of(&api).await.problem(403);
    let operator = operator_key(FIRST);
    let made = ask("POST", "/tenants").key(&operator).json(&tenant).of(&api).await;
    let key = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(ask("GET", "/tasks").key(&key).of(&api).await.status, 200);
    ask("GET", "/tasks").key(&operator).of(&api).await.problem(403);
    ask("POST", "/tenants").key(&operator_key("another")).json(&tenant).of(&api).await.problem(401);
}

/// Known keys cause no read; the first key is cached like any other.
#[tokio::test]
async fn the_vault_is_read_for_unknown_keys_only() {
    let vault = Arc::new(Vault::default());
    *vault.key.lock().unwrap() = Some(FIRST.into());
    let api = api(&vault);
    assert_eq!(ask("GET", "/tasks").key(ADMIN).of(&api).await.status, 200);
    assert_eq!(vault.asked.load(Ordering::Relaxed), 0);
    for _ in 0..3 {
        assert_eq!(ask("GET", "/tasks").key(FIRST).of(&api).await.status, 200);
    }
    assert_eq!(vault.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_sealed_vault_lets_nobody_in() {
    let vault = Arc::new(Vault::default());
    let api = api(&vault);
    let problem = ask("GET", "/tasks").key(FIRST).of(&api).await.problem(401);
    assert!(!problem.to_string().contains("sealed"), "inside knowledge stays inside: {problem}");
    assert_eq!(ask("GET", "/tasks").key(ADMIN).of(&api).await.status, 200);
}
