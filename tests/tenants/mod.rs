//! Two tenants in one store, one name beginning with the other, with ids that try to leave their
//! tenant. Then every stored item is inspected.
//!
//! To add a kind of entity: let `lifecycle` create one for each tenant.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod lifecycle;

use std::collections::BTreeSet;

use serde_json::Value;
use watchbill_alerts::AlertStore as _;
use watchbill_core::ledger::RawBatch;
use watchbill_core::ports::{Item, ListEntry};
use watchbill_core::repo::{self, PARKED, TENANTS};
use watchbill_core::service::{
    AuditFilter, EventFilter, LinkDecision, ServiceError, StatusChange, TaskFilter,
};
use watchbill_domain::{ApprovalId, Caller, Role, Status, TenantId};

use crate::repo::text_of_rust_files;
use lifecycle::{Lived, World, mark};

/// Kinds that belong to no tenant: how far the recorder has read, which policy is in force, and
/// how far the sweeper's rounds are.
const OF_NO_TENANT: &[&str] = &["feed_position", "policy_mark", "round"];

/// The tenant that an item names, and all its text.
fn said(item: &Item) -> (Option<String>, String) {
    if &*item.kind == "ledger" {
        let batch = RawBatch::open(item).unwrap();
        let lines = String::from_utf8(batch.lines).unwrap();
        return (Some(batch.tenant.to_string()), lines);
    }
    if item.body.is_empty() {
        // It has counters only.
        return (None, String::new());
    }
    let body: Value = serde_json::from_slice(&item.body).unwrap();
    let named = ["tenant", "t"].iter().find_map(|name| body[*name].as_str().map(str::to_owned));
    (named, body.to_string())
}

fn begins(entry: &Option<ListEntry>, tenant: &str) -> bool {
    entry.as_ref().is_none_or(|entry| entry.partition.starts_with(&format!("T#{tenant}#")))
}

/// The rule of the keys that an item breaks, if any.
fn broken_rule(item: &Item, tenants: &[TenantId]) -> Option<String> {
    let (named, text) = said(item);
    let partition = &*item.key.partition;
    let owner = repo::tenant_of(&item.key).map(|tenant| tenant.to_string());
    let is_of_none = OF_NO_TENANT.contains(&&*item.kind)
        || &*item.kind == "wait" && partition == repo::ALL_WAITS;
    if is_of_none {
        let clean = partition.starts_with("SYS#") && item.list.is_none() && item.list2.is_none();
        let clean = clean && !tenants.iter().any(|tenant| text.contains(&mark(tenant)));
        return (!clean).then(|| "an item without a tenant contains data of one".to_owned());
    }
    let Some(owner) = owner.or_else(|| named.clone().filter(|_| &*item.kind == "api_key")) else {
        return Some("its partition names no tenant".to_owned());
    };
    let own_key = match &*item.kind {
        // A key is looked up before its tenant is known.
        "api_key" => partition.starts_with("K#"),
        _ => partition.starts_with(&format!("T#{owner}#")),
    };
    let in_tenants = item.list.as_ref().is_some_and(|list| &*list.partition == TENANTS);
    let in_parked = item.list.as_ref().is_some_and(|list| &*list.partition == PARKED);
    let own_lists = begins(&item.list, &owner)
        || (in_tenants && &*item.kind == "fold")
        || (in_parked && &*item.kind == "parked_tenant");
    let others = tenants.iter().filter(|tenant| tenant.as_str() != owner);
    match () {
        () if !own_key => {
            Some(format!("it belongs to {owner}, but its key is outside that tenant"))
        }
        () if named.as_ref().is_some_and(|named| *named != owner) => {
            Some(format!("it names the tenant {named:?}, but is stored under {owner}"))
        }
        () if !own_lists || !begins(&item.list2, &owner) => {
            Some("its list is another tenant's".into())
        }
        () if others.map(mark).any(|mark| text.contains(&mark)) => {
            Some("it holds what is another tenant's".into())
        }
        () => None,
    }
}

#[tokio::test]
async fn every_item_and_every_list_belongs_to_one_tenant() {
    let (world, _) = World::lived().await;
    let tenants: Vec<TenantId> = lifecycle::tenants().into();
    let items = world.store.items();
    let mut kinds = BTreeSet::new();
    for item in &items {
        kinds.insert(item.kind.to_string());
        if let Some(rule) = broken_rule(item, &tenants) {
            panic!("{} ({}): {rule}: {:?} {:?}", item.key, item.kind, item.list, item.list2);
        }
    }
    for key in world.blobs.keys() {
        let (tenant, _) = key.task().unwrap();
        assert!(tenants.iter().any(|known| known.as_str() == tenant), "blob {key}");
    }
    assert!(world.blobs.keys().len() >= 2, "each has a large payload");
    // A kind that the scenario does not create is not inspected.
    let mut known: BTreeSet<String> = ["ledger", "body"].map(str::to_owned).into();
    for text in text_of_rust_files("src") {
        let names = text.lines().map(str::trim).filter(|line| line.starts_with("const KIND: &"));
        for line in names.filter(|line| line.contains("str = \"")) {
            known.extend(line.split('"').nth(1).map(str::to_owned));
        }
    }
    known.remove("feed_position");
    let unseen: Vec<_> = known.difference(&kinds).collect();
    assert!(unseen.is_empty(), "tests/tenants/lifecycle.rs creates none of {unseen:?}");
}

fn absent<T: std::fmt::Debug>(answer: Result<T, ServiceError>) {
    assert!(matches!(answer, Err(ServiceError::NotFound { .. })), "{answer:?}");
}

/// With every right in one tenant, no one finds the other tenant's data by its id.
#[tokio::test]
async fn nothing_is_found_by_an_id_of_another_tenant() {
    let (world, lived) = World::lived().await;
    let core = &world.core;
    for (own, other) in [(&lived[0], &lived[1]), (&lived[1], &lived[0])] {
        let (tenant, before) = (&own.tenant, world.store.items().len());
        let admin = Caller {
            name: "root".into(),
            role: Role::Admin,
            tenant: tenant.clone(),
            made_by: None,
        };
        // An id that a client chose may exist in both tenants.
        for id in other.tasks.iter().filter(|id| !lifecycle::is_shared(id.as_str())) {
            absent(core.tasks().get(tenant, id).await);
            absent(core.tasks().timeline(tenant, id).await);
            absent(core.tasks().cancel(&admin, id, None).await.map(|_| ()));
            absent(core.tasks().retry(&admin, id).await.map(|_| ()));
            let to = StatusChange { status: Status::Cancelled, error: None, result: None };
            absent(core.tasks().set_status(&admin, id, to).await.map(|_| ()));
            absent(core.tasks().answer(&admin, id, "yes".into()).await.map(|_| ()));
            let approval = ApprovalId::of(id, 1);
            absent(core.approvals().get(tenant, &approval).await.map(|_| ()));
            absent(core.approvals().approve(&admin, &approval).await.map(|_| ()));
            absent(core.approvals().reject(&admin, &approval, None).await.map(|_| ()));
            let used = lifecycle::link_use(other);
            let by_link = core
                .approvals()
                .decide_by_link(tenant, &approval, &used, LinkDecision::Approve)
                .await;
            absent(by_link.map(|_| ()));
        }
        let all = EventFilter::default();
        let wait = std::time::Duration::ZERO;
        let event = Some(&other.event);
        absent(core.events().after(tenant, &all, (event, None), 10, wait).await.map(|_| ()));
        absent(core.keys().revoke(&admin, &other.key).await.map(|_| ()));
        assert!(
            !core
                .approvals()
                .is_link_used(tenant, &lifecycle::link_use(other).nonce)
                .await
                .unwrap()
        );
        assert!(world.alerts().find(tenant, &other.alert).await.unwrap().is_none());
        assert_eq!(world.store.items().len(), before, "the requests create nothing");
    }
}

/// Lists, events, audit, alerts and metrics contain the tenant's own data and nothing else.
#[tokio::test]
async fn lists_contain_only_what_the_tenant_owns() {
    let (world, lived) = World::lived().await;
    let core = &world.core;
    for Lived { tenant, tasks, .. } in &lived {
        let page = core.tasks().list(tenant, &TaskFilter::default(), 200, None).await.unwrap();
        let listed: BTreeSet<_> = page.entries.iter().map(|full| full.task.id.clone()).collect();
        assert_eq!(listed, tasks.iter().cloned().collect(), "{tenant}");
        let mut seen = vec![format!("{:?}", page.entries)];
        for status in [Status::Pending, Status::Failed, Status::Blocked, Status::Assigned] {
            let filter = TaskFilter { status: Some(status), ..TaskFilter::default() };
            let page = core.tasks().list(tenant, &filter, 200, None).await.unwrap();
            seen.push(format!("{:?}", page.entries));
        }
        let events =
            core.events().list(tenant, &EventFilter::default(), 200, None).await.unwrap().events;
        assert!(events.len() > 10, "{tenant}: {}", events.len());
        seen.push(format!("{events:?}"));
        let audit = core.audit().list(tenant, &AuditFilter::default(), 200, None).await.unwrap();
        assert!(audit.entries.len() > 10, "{tenant}: {}", audit.entries.len());
        seen.push(format!("{:?}", audit.entries));
        let batches = core.audit().batches(tenant, 1, 100).await.unwrap();
        seen.push(format!("{:?}", batches.batches));
        seen.push(format!("{:?}", core.keys().list(tenant, 100, None).await.unwrap()));
        seen.push(format!("{:?}", world.alerts().list_open(tenant, 100).await.unwrap()));
        let open = core.approvals().pending(tenant, 200, None).await.unwrap();
        let closed = core.approvals().history(tenant, 200, None).await.unwrap();
        seen.push(format!("{:?} {:?}", open.entries, closed.entries));
        let stats = core.stats().of(tenant).await.unwrap();
        let counted: u64 = stats.rows.iter().map(|row| row.count).sum();
        assert_eq!(counted, tasks.len() as u64, "{tenant} counts its own");
        for other in lived.iter().filter(|other| other.tenant != *tenant) {
            for seen in &seen {
                assert!(!seen.contains(&mark(&other.tenant)), "{tenant} sees {}", other.tenant);
                let ids = other.tasks.iter().map(|id| id.as_str());
                let found = ids.filter(|id| !lifecycle::is_shared(id)).find(|id| seen.contains(id));
                assert_eq!(found, None, "{tenant} sees a task of {}", other.tenant);
            }
        }
    }
}
