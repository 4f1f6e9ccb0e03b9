//! The ledger's chain: a changed, removed or moved batch is detected.

use std::sync::Arc;

use serde_json::{Map, json};
use watchbill_core::ledger::{Batch, BatchError, Entry, LedgerBreak, VerifyError, verify};
use watchbill_core::ports::{Commit, Item, NewItem, Precondition, Store, Write, WriteId};
use watchbill_core::repo::{Projection, encode, ledger_key};
use watchbill_domain::{Event, EventId, EventPriority, EventType, TenantId, Timestamp};
use watchbill_testkit::MemoryStore;

fn event(n: u64) -> Event {
    Event {
        event_id: EventId::parse(&format!("e-{n}")).unwrap(),
        event_type: EventType::parse("deploy.failed").unwrap(),
        priority: EventPriority::High,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: json!({"n": n}).as_object().unwrap().clone(),
        timestamp: Timestamp::from_millis(n as i64),
        metadata: Map::new(),
        hops: 0,
    }
}

async fn put(store: &MemoryStore, id: u128, write: Write) {
    store.commit(Commit { id: WriteId(id), writes: vec![write] }).await.unwrap();
}

/// Eight batches of three entries.
async fn ledger(tenant: &TenantId) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let mut previous = String::new();
    for seq in 1..=8 {
        let entries = (0..3).map(|n| Entry::Published(event(seq * 10 + n))).collect();
        let at = Timestamp::from_millis(seq as i64 * 1_000);
        let (batch, item) = Batch::new(tenant.clone(), seq, at, previous, seq - 1, entries);
        previous = batch.hash;
        put(&store, seq.into(), Write::Put { item, expect: Precondition::Absent }).await;
    }
    store
}

async fn item(store: &MemoryStore, tenant: &TenantId, seq: u64) -> Item {
    store.get(&ledger_key(tenant, seq)).await.unwrap().unwrap()
}

/// Replaces the body of batch `seq`.
async fn overwrite(store: &MemoryStore, tenant: &TenantId, seq: u64, body: Vec<u8>) {
    let old = item(store, tenant, seq).await;
    let new = NewItem {
        key: old.key.clone(),
        kind: "ledger".into(),
        schema: 1,
        body: body.into(),
        list: old.list.clone(),
        list2: None,
        due: None,
        expires: None,
    };
    put(
        store,
        u128::from(seq) + 900,
        Write::Put { item: new, expect: Precondition::Version(old.version) },
    )
    .await;
}

async fn remove(store: &MemoryStore, tenant: &TenantId, seq: u64) {
    let version = item(store, tenant, seq).await.version;
    let delete =
        Write::Delete { key: ledger_key(tenant, seq), expect: Precondition::Version(version) };
    put(store, u128::from(seq) + 500, delete).await;
}

async fn broken(store: &Arc<MemoryStore>, tenant: &TenantId) -> (u64, String) {
    match verify(store.clone(), tenant).await {
        Err(VerifyError::Broken(LedgerBreak { seq, reason, .. })) => (seq, reason),
        other => panic!("not found out: {other:?}"),
    }
}

#[tokio::test]
async fn an_untouched_chain_verifies_and_returns_its_head() {
    let tenant = TenantId::default();
    let store = ledger(&tenant).await;
    let verified = verify(store.clone(), &tenant).await.unwrap();
    let last = Batch::read(&item(&store, &tenant, 8).await).unwrap();
    assert_eq!((verified.batches, verified.entries, verified.head), (8, 24, last.hash));
    let empty = verify(Arc::new(MemoryStore::new()), &tenant).await.unwrap();
    assert_eq!((empty.batches, empty.head.as_str()), (0, ""));
}

#[tokio::test]
async fn any_changed_byte_of_a_batch_is_detected() {
    let tenant = TenantId::default();
    let body = item(&*ledger(&tenant).await, &tenant, 4).await.body.to_vec();
    let published = body.windows(6).position(|bytes| bytes == b"\"pub\":").unwrap();
    let mut unseen = Vec::new();
    for place in 0..body.len() {
        // How far events had been published at the time is not part of the history.
        if (published..=published + 6).contains(&place) {
            continue;
        }
        let store = ledger(&tenant).await;
        let mut other = body.clone();
        other[place] ^= 1;
        overwrite(&store, &tenant, 4, other).await;
        if verify(store, &tenant).await.is_ok() {
            unseen.push(place);
        }
    }
    // Padding bits of the compressed stream carry no data.
    let header = body.iter().position(|byte| *byte == b'\n').unwrap();
    let in_header: Vec<_> = unseen.iter().filter(|place| **place <= header).collect();
    assert!(in_header.is_empty(), "changed header bytes that nobody saw: {in_header:?}");
    assert!(unseen.len() <= 4, "changed bytes that nobody saw: {unseen:?}");
}

#[tokio::test]
async fn a_rewritten_batch_is_distinguished_from_the_next_one() {
    let tenant = TenantId::default();
    let store = ledger(&tenant).await;
    let old = Batch::read(&item(&store, &tenant, 4).await).unwrap();
    let (other, new) = Batch::new(
        tenant.clone(),
        4,
        old.recorded_at,
        old.previous,
        old.published,
        vec![Entry::Published(event(99))],
    );
    assert_ne!(other.hash, old.hash);
    overwrite(&store, &tenant, 4, new.body.to_vec()).await;
    assert!(Batch::read(&item(&store, &tenant, 4).await).is_ok(), "by itself it is sound");
    let (at, reason) = broken(&store, &tenant).await;
    assert!(at == 4 && reason.contains("it was rewritten"), "{at}: {reason}");
}

#[tokio::test]
async fn a_removed_batch_is_missed() {
    let tenant = TenantId::default();
    for seq in [1, 4] {
        let store = ledger(&tenant).await;
        remove(&store, &tenant, seq).await;
        let (at, reason) = broken(&store, &tenant).await;
        assert!(at == seq && reason.contains("missing"), "{at}: {reason}");
    }
    // The last batch, which the statistics have seen.
    let store = ledger(&tenant).await;
    let name = watchbill_core::repo::STATS_FOLD.to_owned();
    let fold = Projection { tenant: tenant.clone(), name, seq_applied: 8, state: json!({}) };
    put(&store, 77, Write::Put { item: encode(&fold, None), expect: Precondition::Absent }).await;
    verify(store.clone(), &tenant).await.unwrap();
    remove(&store, &tenant, 8).await;
    assert_eq!(broken(&store, &tenant).await.0, 8);
}

#[tokio::test]
async fn swapped_batches_are_detected() {
    let tenant = TenantId::default();
    let store = ledger(&tenant).await;
    let (third, fifth) = (item(&store, &tenant, 3).await, item(&store, &tenant, 5).await);
    overwrite(&store, &tenant, 3, fifth.body.to_vec()).await;
    overwrite(&store, &tenant, 5, third.body.to_vec()).await;
    let (at, reason) = broken(&store, &tenant).await;
    assert!(at == 3 && reason.contains("batch 5"), "{at}: {reason}");
}

#[tokio::test]
async fn another_tenants_ledger_is_rejected() {
    let (tenant, other) = (TenantId::default(), TenantId::parse("acme").unwrap());
    let store = ledger(&tenant).await;
    let foreign = item(&*ledger(&other).await, &other, 4).await;
    overwrite(&store, &tenant, 4, foreign.body.to_vec()).await;
    assert_eq!(broken(&store, &tenant).await.0, 4);
}

#[tokio::test]
async fn a_batch_that_is_no_batch_is_named() {
    let tenant = TenantId::default();
    let store = ledger(&tenant).await;
    for body in [&b""[..], b"no header", b"{}\nx", b"\n"] {
        overwrite(&store, &tenant, 2, body.to_vec()).await;
        let read = Batch::read(&item(&store, &tenant, 2).await);
        assert!(matches!(read, Err(BatchError::Unreadable { .. })), "{read:?}");
        assert_eq!(broken(&store, &tenant).await.0, 2);
    }
}
