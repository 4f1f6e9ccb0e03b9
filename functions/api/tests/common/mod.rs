//! Test support: the router over an in-memory store, with a clock and randomness that the test
//! controls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt as _;
use watchbill_api::{AgentInfo, ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, Entry, LedgerReader, entries_of};
use watchbill_core::ports::{Clock, Commit, Entropy, Precondition, Store, Topic, Wake, Write};
use watchbill_core::repo::{LedgerPeek, task_key};
use watchbill_core::service::{Core, Governance, Ports};
use watchbill_domain::{Agent, Role, TaskId, TenantId, hash_key};
use watchbill_governance::Policy;
use watchbill_testkit::{FakeClock, MemoryBlobs, MemoryStore, SeededEntropy};

pub const ADMIN: &str = "admin-key-0123456789";
pub const AGENT: &str = "agent-key-0123456789";
pub const APPROVER: &str = "approver-key-0123456789";
pub const USER: &str = "user-key-0123456789";
pub const OTHER: &str = "other-tenant-admin-key";
pub const OPERATOR: &str = "operator-key-0123456789";
pub const SECRET: &str = "a secret of forty bytes, or a few more ..";

/// Marks in memory; sleeps on the test's clock.
struct TestWake {
    clock: Arc<FakeClock>,
    marks: Mutex<HashMap<Topic, u64>>,
}

#[async_trait]
impl Wake for TestWake {
    fn mark(&self, topic: &Topic) -> u64 {
        self.marks.lock().unwrap().get(topic).copied().unwrap_or_default()
    }

    async fn wait(&self, topic: &Topic, seen: u64, at_most: Duration) {
        if self.mark(topic) == seen {
            self.clock.sleep(at_most).await;
        }
    }

    fn wake(&self, topic: &Topic) {
        *self.marks.lock().unwrap().entry(topic.clone()).or_default() += 1;
    }
}

pub struct Api {
    pub router: Router,
    pub core: Core,
    pub clock: Arc<FakeClock>,
    pub store: Arc<MemoryStore>,
    pub blobs: Arc<MemoryBlobs>,
}

pub fn static_key(name: &str, key: &str, role: Role, tenant: &str) -> StaticKey {
    let tenant = TenantId::parse(tenant).unwrap();
    StaticKey { name: name.into(), key_hash: hash_key(key), role, tenant }
}

pub fn config() -> ApiConfig {
    let mut config = ApiConfig {
        static_keys: vec![
            static_key("root", ADMIN, Role::Admin, "default"),
            static_key("worker", AGENT, Role::Agent, "default"),
            static_key("alice", APPROVER, Role::Approver, "default"),
            static_key("bob", USER, Role::User, "default"),
            static_key("eve", OTHER, Role::Admin, "other"),
        ],
        operator_key_hash: Some(hash_key(OPERATOR)),
        rate_limits: RateLimits::Off,
        agents: vec![
            AgentInfo { agent: Agent::Ops, built: true, status: "running".into() },
            AgentInfo { agent: Agent::Dev, built: false, status: "external".into() },
        ],
        ..ApiConfig::default()
    };
    config.jwt.hs_secret = Some(SECRET.into());
    config
}

pub fn api() -> Api {
    api_with(config(), EngineConfig::default())
}

pub fn api_with(config: ApiConfig, rules: EngineConfig) -> Api {
    api_under(config, rules, Policy::default())
}

pub fn api_under(config: ApiConfig, rules: EngineConfig, policy: Policy) -> Api {
    let start = watchbill_domain::Timestamp::from_millis(1_760_954_400_000);
    api_on(FakeClock::auto(start), config, rules, policy)
}

/// An API whose clock only the test advances, for calls that are held open.
pub fn api_by_hand(config: ApiConfig) -> Api {
    api_on(FakeClock::default(), config, EngineConfig::default(), Policy::default())
}

fn api_on(clock: FakeClock, config: ApiConfig, rules: EngineConfig, policy: Policy) -> Api {
    let clock = Arc::new(clock);
    let store = Arc::new(MemoryStore::new());
    let blobs = Arc::new(MemoryBlobs::new());
    let wake = Arc::new(TestWake { clock: clock.clone(), marks: Mutex::default() });
    let ports = Ports {
        store: store.clone(),
        blobs: blobs.clone(),
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::default()),
        wake,
    };
    let core = Core::new(ports, Arc::new(rules), 1).governed_by(Governance::fixed(policy));
    let state = ApiState::new(core.clone(), config).unwrap();
    Api { router: watchbill_api::router(state), core, clock, store, blobs }
}

/// A response, read to its end.
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts that the response is an error of this status, in the format of RFC 9457.
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            let text = problem[member].as_str().unwrap();
            assert!(!text.is_empty(), "{member}");
        }
        assert!(problem["type"].as_str().unwrap().starts_with("urn:watchbill:"));
        problem
    }
}

pub struct TestRequest(http::request::Builder, Body);

pub fn ask(method: &str, path: &str) -> TestRequest {
    TestRequest(Request::builder().method(method).uri(path), Body::empty())
}

impl TestRequest {
    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        TestRequest(self.0.header(name, value), self.1)
    }

    pub fn json(self, body: &Value) -> Self {
        TestRequest(self.0.header("content-type", "application/json"), body.to_string().into())
    }

    pub fn raw(self, body: impl Into<Body>) -> Self {
        TestRequest(self.0, body.into())
    }

    pub async fn send(self, api: &Api) -> Response {
        api.router.clone().oneshot(self.0.body(self.1).unwrap()).await.unwrap()
    }

    pub async fn of(self, api: &Api) -> Got {
        let (parts, body) = self.send(api).await.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Got { status: parts.status, headers: parts.headers, body }
    }
}

impl Api {
    pub async fn create(&self, body: Value) -> Value {
        let got = ask("POST", "/tasks").key(AGENT).json(&body).of(self).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        got.json()
    }

    /// Records a task's changes as the recorder does, as a ledger batch.
    pub async fn record(&self, task: &str) {
        let (tenant, id) = (TenantId::default(), TaskId::parse(task).unwrap());
        let item = self.store.get(&task_key(&tenant, &id)).await.unwrap().unwrap();
        let task = LedgerPeek::of(&item).unwrap();
        self.append(&tenant, entries_of(task, Vec::new(), 0)).await;
    }

    pub async fn append(&self, tenant: &TenantId, entries: Vec<Entry>) {
        let ledger = LedgerReader::new(self.store.clone(), tenant.clone());
        let seq = ledger.listed_head().await.unwrap() + 1;
        let previous = match ledger.batch(seq - 1).await {
            Ok(Some(batch)) => batch.hash,
            _ => String::new(),
        };
        let now = self.clock.now();
        let (_, item) = Batch::new(tenant.clone(), seq, now, previous, 0, entries);
        let id = SeededEntropy::new(seq).write_id();
        let writes = vec![Write::Put { item, expect: Precondition::Absent }];
        self.store.commit(Commit { id, writes }).await.unwrap();
        self.core.wake().wake(&Topic::Ledger(tenant.clone()));
    }
}
