//! The audit log as admins read it, and the batches that prove it.

use watchbill_core::ledger::{Entry, PositionContent, Verifier};
use watchbill_core::ports::{Commit, NewItem, Precondition, Store as _, Write, WriteId};
use watchbill_core::repo::{Entity as _, decode, ledger_key};
use watchbill_domain::TenantId;
use watchbill_governance::AuditRecord;
use watchbill_wire::BatchList;

use crate::common::{ADMIN, AGENT, APPROVER, Api, OPERATOR, OTHER, USER, api, ask};
use serde_json::{Value, json};

/// Records the stored audit records as the recorder does.
async fn record_all(api: &Api) {
    let records: Vec<AuditRecord> = api
        .store
        .items()
        .iter()
        .filter(|item| *item.kind == *AuditRecord::KIND)
        .map(|item| decode::<AuditRecord>(item).unwrap().value)
        .collect();
    for record in records {
        assert_eq!(record.clone().clean(), record, "there is nothing to redact in it");
        let tenant = record.tenant.clone();
        api.append(&tenant, vec![Entry::AuditRecord(Box::new(record))]).await;
    }
}

async fn audit(api: &Api, key: &str, query: &str) -> Value {
    let got = ask("GET", &format!("/audit{query}")).key(key).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()
}

fn kinds(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
}

/// A test environment in which keys, a token and a tenant were created and a task was approved.
async fn eventful() -> (Api, String) {
    let api = api();
    let key = json!({ "name": "helper", "role": "user" });
    let made = ask("POST", "/keys").key(ADMIN).json(&key).of(&api).await.json();
    assert_eq!(ask("DELETE", "/keys/helper").key(ADMIN).of(&api).await.status, 200);
    let token = json!({ "sub": "carol", "role": "approver", "expires_in": 60 });
    let token = ask("POST", "/auth/token").key(ADMIN).json(&token).of(&api).await.json();
    let tenant = json!({ "tenant": "acme" });
    let acme = ask("POST", "/tenants").key(OPERATOR).json(&tenant).of(&api).await.json();
    record_all(&api).await;
    let task = json!({ "type": "deploy", "payload": {}, "priority": "P0" });
    let id = api.create(task).await["task_id"].as_str().unwrap().to_owned();
    let approve = format!("/approvals/approval_{id}/approve");
    assert_eq!(ask("POST", &approve).key(APPROVER).of(&api).await.status, 200);
    api.record(&id).await;
    for secret in [&made["key"], &token["access_token"], &acme["key"]] {
        let secret = secret.as_str().unwrap();
        for item in api.store.items() {
            let body = String::from_utf8_lossy(&item.body).into_owned();
            assert!(!body.contains(secret), "{} holds a secret", item.key);
        }
    }
    (api, id)
}

#[tokio::test]
async fn the_audit_holds_keys_tokens_tenants_and_tasks() {
    let (api, id) = eventful().await;
    let page = audit(&api, ADMIN, "").await;
    let mut found = kinds(&page);
    assert_eq!(found[..2], ["approved", "created"], "newest first");
    found.sort();
    assert_eq!(found, ["approved", "created", "key_created", "key_revoked", "token_issued"]);
    let approved = &page["entries"][0];
    assert_eq!((&approved["actor"], &approved["task_id"]), (&json!("alice"), &json!(id)));
    assert!(approved["text"].as_str().unwrap().starts_with("pending → assigned"), "{approved}");
    assert_eq!((&page["batch"], page["recorded_until"].is_string()), (&json!(4), true));
    for entry in page["entries"].as_array().unwrap().iter().filter(|e| e["task_id"].is_null()) {
        assert_eq!(entry["actor"], "root");
        assert!(["helper", "carol"].contains(&entry["subject"].as_str().unwrap()), "{entry}");
    }
    let made = &audit(&api, ADMIN, "?kind=key_created").await["entries"][0];
    assert_eq!(
        (&made["details"]["role"], &made["details"]["name"]),
        (&json!("user"), &json!("helper"))
    );
}

#[tokio::test]
async fn the_audit_of_another_tenant_is_another() {
    let (api, id) = eventful().await;
    let page = audit(&api, OTHER, "").await;
    assert_eq!((&page["count"], &page["batch"]), (&json!(0), &json!(0)));
    let page = audit(&api, OTHER, &format!("?task={id}")).await;
    assert_eq!(page["count"], 0);
    let batches = ask("GET", "/audit/batches").key(OTHER).of(&api).await.json();
    assert_eq!((&batches["count"], &batches["tenant_id"]), (&json!(0), &json!("other")));
    for key in [USER, APPROVER, AGENT, OPERATOR] {
        ask("GET", "/audit").key(key).of(&api).await.problem(403);
        ask("GET", "/audit/batches").key(key).of(&api).await.problem(403);
    }
}

#[tokio::test]
async fn filters_narrow_it_down() {
    let (api, id) = eventful().await;
    for (query, count) in [
        ("?actor=alice".to_owned(), 1),
        ("?actor=root".to_owned(), 3),
        (format!("?task={id}"), 2),
        (format!("?task={id}&kind=created"), 1),
        ("?since=2030-01-01T00:00:00Z".to_owned(), 0),
        ("?until=2020-01-01T00:00:00Z".to_owned(), 0),
        ("?since=2020-01-01T00:00:00Z&until=2030-01-01T00:00:00Z".to_owned(), 5),
    ] {
        assert_eq!(audit(&api, ADMIN, &query).await["count"], count, "{query}");
    }
    for wrong in ["?kind=whatever", "?since=yesterday", "?limit=0"] {
        ask("GET", &format!("/audit{wrong}")).key(ADMIN).of(&api).await.problem(400);
    }
    ask("GET", "/audit?cursor=x").key(ADMIN).of(&api).await.problem(400);
}

#[tokio::test]
async fn pages_follow_one_another_without_gap_or_repeat() {
    let (api, _) = eventful().await;
    let whole = audit(&api, ADMIN, "").await;
    let (mut walked, mut query) = (Vec::new(), "?limit=1".to_owned());
    loop {
        let page = audit(&api, ADMIN, &query).await;
        walked.extend(page["entries"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=1&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(json!(walked), whole["entries"]);
}

async fn batches(api: &Api, query: &str) -> BatchList {
    let got = ask("GET", &format!("/audit/batches{query}")).key(ADMIN).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    serde_json::from_slice(&got.body).unwrap()
}

#[tokio::test]
async fn the_batches_verify_without_the_servers_word() {
    let (api, _) = eventful().await;
    let mut verifier = Verifier::new(TenantId::default());
    let (mut from, mut pages) = (1, 0);
    loop {
        let page = batches(&api, &format!("?from={from}&limit=3")).await;
        assert_eq!(page.seen, 4);
        for place in page.batches {
            verifier.push(PositionContent::from(place)).unwrap();
        }
        pages += 1;
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!((pages, verifier.finish().unwrap().batches), (2, 4));
    for wrong in ["?from=0", "?limit=101", "?from=x"] {
        ask("GET", &format!("/audit/batches{wrong}")).key(ADMIN).of(&api).await.problem(400);
    }
}

/// Tampered data is reported as such, and hides nothing else.
#[tokio::test]
async fn a_broken_batch_is_named_in_the_list_and_in_the_chain() {
    let (api, _) = eventful().await;
    let key = ledger_key(&TenantId::default(), 2);
    let old = api.store.get(&key).await.unwrap().unwrap();
    let body = String::from_utf8_lossy(&old.body[..40]).replace("\"seq\":2", "\"seq\":7");
    let mut forged = old.body.to_vec();
    forged[..40].copy_from_slice(&body.into_bytes()[..40]);
    let item = NewItem {
        key,
        kind: "ledger".into(),
        schema: 1,
        body: forged.into(),
        list: old.list.clone(),
        list2: None,
        due: None,
        expires: None,
    };
    let writes = vec![Write::Put { item, expect: Precondition::Version(old.version) }];
    api.store.commit(Commit { id: WriteId(4_711), writes }).await.unwrap();
    let page = audit(&api, ADMIN, "").await;
    assert_eq!(page["count"], 5, "one entry stands for the broken batch: {page}");
    assert!(kinds(&page).contains(&"ledger_broken".to_owned()));
    let page = batches(&api, "").await;
    let mut verifier = Verifier::new(TenantId::default());
    let broken =
        page.batches.into_iter().find_map(|p| verifier.push(PositionContent::from(p)).err());
    assert_eq!(broken.unwrap().seq, 2);
}
