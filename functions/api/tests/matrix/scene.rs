//! The matrix's fixture: a tenant with something for each route, and another tenant.

use std::sync::Arc;

use serde_json::{Value, json};
use watchbill_api::ApiConfig;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::Entry;
use watchbill_core::ports::{Clock as _, FixedSecret, Key};
use watchbill_domain::{
    ApprovalId, Event, EventId, EventPriority, EventType, Role, TaskId, TenantId, Timestamp,
};
use watchbill_governance::{Freeze, FreezeWhen, Policy};
use watchbill_wire::{ApprovalLink, LinkKey};

use crate::common::{ADMIN, AGENT, Api, OTHER, api_under, ask, config, static_key};

pub const OTHER_USER: &str = "other-tenant-user-key";
pub const OTHER_APPROVER: &str = "other-tenant-approver-key";
pub const OTHER_AGENT: &str = "other-tenant-agent-key";
/// Contained in everything of the tenant.
pub const MARK: &str = "only-for-the-tenant";
/// A freeze that approvers may override, in every tenant.
pub const FREEZE: &str = "year-end";
const LINK_SECRET: &str = "what approval links are signed with";

/// A tenant with something for each route, and another tenant.
pub struct Scene {
    pub api: Api,
    /// Assigned to the ops agent.
    pub task: String,
    /// Waits for the approval `approval_<id>`.
    pub gated: String,
    pub blocked: String,
    pub cancelled: String,
    pub event: String,
    /// An admin's key, revoked.
    pub revoked: String,
    /// A link that decides the open approval.
    pub link: String,
}

impl Scene {
    pub async fn new() -> Self {
        let mut config = config();
        for (name, key, role) in [
            ("other-user", OTHER_USER, Role::User),
            ("other-approver", OTHER_APPROVER, Role::Approver),
            ("other-agent", OTHER_AGENT, Role::Agent),
        ] {
            config.static_keys.push(static_key(name, key, role, "other"));
        }
        let config =
            ApiConfig { link_secret: Some(Arc::new(FixedSecret(LINK_SECRET.into()))), ..config };
        let api = api_under(config, EngineConfig::default(), frozen());
        let task = create(&api, AGENT, "monitor", "P2").await;
        let gated = create(&api, AGENT, "deploy", "P2").await;
        let blocked = create(&api, AGENT, "monitor", "P3").await;
        let cancelled = create(&api, AGENT, "monitor", "P3").await;
        create(&api, OTHER, "monitor", "P2").await;
        let status = format!("/tasks/{blocked}/status?status=blocked&error={MARK}");
        done(&api, "PATCH", &status, AGENT).await;
        done(&api, "POST", &format!("/tasks/{cancelled}/cancel"), AGENT).await;
        let revoked = new_key(&api, "revoked").await;
        done(&api, "DELETE", "/keys/revoked", ADMIN).await;
        new_key(&api, "helper").await;
        let event = event(api.clock.now());
        api.append(&TenantId::default(), vec![Entry::Published(event.clone())]).await;
        api.record(&gated).await;
        let link = link(&api, &gated).await;
        let event = event.event_id.to_string();
        Self { api, task, gated, blocked, cancelled, event, revoked, link }
    }

    pub fn approval(&self) -> String {
        format!("approval_{}", self.gated)
    }

    /// Keys and versions of all items of the tenant.
    pub fn items_of_the_tenant(&self) -> Vec<(Key, u64)> {
        let items = self.api.store.items();
        // The counter of keys belongs to no tenant: other tenants may create keys.
        let own = items.iter().filter(|item| item.key.partition.starts_with("T#default#"));
        own.map(|item| (item.key.clone(), item.version)).collect()
    }
}

fn frozen() -> Policy {
    let at = Timestamp::from_millis;
    let freeze = Freeze {
        name: FREEZE.into(),
        reason: "the books are closed".into(),
        environments: Default::default(),
        when: FreezeWhen::Once { from: at(0), until: at(1) },
        override_roles: [Role::Approver, Role::Admin].into(),
        override_names: Default::default(),
    };
    Policy { freezes: vec![freeze], ..Policy::default() }
}

async fn create(api: &Api, key: &str, task_type: &str, priority: &str) -> String {
    let mark = if key == AGENT { MARK } else { "of the other tenant" };
    let body = json!({ "type": task_type, "priority": priority, "payload": { "note": mark } });
    let got = ask("POST", "/tasks").key(key).json(&body).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()["task_id"].as_str().unwrap().to_owned()
}

async fn done(api: &Api, verb: &str, path: &str, key: &str) -> Value {
    let got = ask(verb, path).key(key).of(api).await;
    assert_eq!(got.status, 200, "{verb} {path}: {:?}", got.body);
    got.json()
}

async fn new_key(api: &Api, name: &str) -> String {
    let body = json!({ "name": name, "role": "admin" });
    let made = ask("POST", "/keys").key(ADMIN).json(&body).of(api).await.json();
    made["key"].as_str().unwrap().to_owned()
}

fn event(now: Timestamp) -> Event {
    Event {
        event_id: EventId::parse("e-1").unwrap(),
        event_type: EventType::parse("deploy.failed").unwrap(),
        priority: EventPriority::High,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: json!({ "note": MARK }).as_object().unwrap().clone(),
        timestamp: now,
        metadata: Default::default(),
        hops: 0,
    }
}

async fn link(api: &Api, task: &str) -> String {
    let tenant = TenantId::default();
    let approval = ApprovalId::of(&TaskId::parse(task).unwrap(), 1);
    let plan_hash = api.core.approvals().get(&tenant, &approval).await.unwrap().approval.plan_hash;
    let expires = api.clock.now().plus(std::time::Duration::from_secs(600));
    let to = "alice".to_owned();
    let nonce = "00112233445566778899aabbccddeeff".to_owned();
    let link = ApprovalLink { tenant, approval, plan_hash, to, nonce, expires };
    LinkKey::new(LINK_SECRET.as_bytes()).unwrap().sign(&link)
}
