//! Keys that are created and revoked for years, and tenants by the thousand.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, StatsFold, entries_of};
use watchbill_core::ports::{Clock as _, Commit, Precondition, Store as _, Write};
use watchbill_core::repo::{
    KEEP_REVOKED_KEYS, KeyRecord, LedgerPeek, Projection, STATS_FOLD, encode, task_key,
};
use watchbill_core::service::{Core, KeyPage, MAX_KEYS, Ports, ServiceError};
use watchbill_domain::{ApiKey, Role, TenantId};
use watchbill_testkit::{FaultyStore, SeededEntropy};

use crate::common::{World, caller, plain, tenant};

impl World {
    async fn make_key(&self, name: &str) -> Result<(), ServiceError> {
        let made = self.core.keys().create(&caller("kim"), &tenant(), name, Role::User).await;
        made.map(|_| ())
    }

    async fn put_all(&self, items: Vec<watchbill_core::ports::NewItem>) {
        for items in items.chunks(100) {
            let put = |item| Write::Put { item, expect: Precondition::Absent };
            let writes = items.iter().cloned().map(put).collect();
            let id = self.core.entropy().write_id();
            self.store.commit(Commit { id, writes }).await.unwrap();
        }
    }

    async fn all_keys(&self, limit: usize) -> Vec<ApiKey> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let KeyPage { keys, next_cursor, .. } =
                self.core.keys().list(&tenant(), limit, cursor).await.unwrap();
            assert!(keys.len() <= limit);
            all.extend(keys);
            match next_cursor {
                Some(next) => cursor = Some(next),
                None => return all,
            }
        }
    }
}

/// A key is rotated without end: only valid keys count, and revoked ones expire.
#[tokio::test]
async fn keys_can_be_rotated_without_end() {
    let world = World::new(EngineConfig::default());
    let kim = caller("kim");
    let rotations = MAX_KEYS + 100;
    for _ in 0..rotations {
        world.make_key("ci").await.unwrap();
        world.core.keys().revoke(&kim, "ci").await.unwrap();
        world.clock.advance(Duration::from_secs(1));
    }
    world.make_key("ci").await.unwrap();
    let now = world.clock.now();
    let keys = world.all_keys(300).await;
    assert_eq!(keys.len(), rotations + 1);
    assert!(keys[0].revoked_at.is_none() && keys[1..].iter().all(|key| key.revoked_at.is_some()));
    assert!(keys[1..].windows(2).all(|pair| pair[0].created_at >= pair[1].created_at));
    for item in world.store.items().iter().filter(|item| &*item.kind == "api_key") {
        let ends = item.expires.is_none_or(|at| at <= now.plus(KEEP_REVOKED_KEYS));
        assert!(ends, "a revoked key stays until {:?}", item.expires);
    }
    let expiring = world
        .store
        .items()
        .iter()
        .filter(|item| &*item.kind == "api_key" && item.expires.is_some())
        .count();
    assert_eq!(expiring, rotations);
    let wrong = world.core.keys().list(&tenant(), 10, Some("x".into())).await;
    assert!(matches!(wrong, Err(ServiceError::Invalid { field: "cursor", .. })), "{wrong:?}");
}

fn key(n: usize, revoked: bool, world: &World) -> ApiKey {
    ApiKey {
        hash: format!("{n:064x}"),
        name: format!("key-{n}"),
        role: Role::User,
        tenant: tenant(),
        created_at: world.clock.now().plus(Duration::from_secs(n as u64)),
        created_by: "kim".into(),
        made_by: None,
        prefix: "wb_".into(),
        revoked_at: revoked.then(|| world.clock.now()),
    }
}

#[tokio::test]
async fn only_valid_keys_count_towards_the_limit() {
    let world = World::new(EngineConfig::default());
    let good = (0..MAX_KEYS).map(|n| encode(&KeyRecord(key(n, false, &world)), None)).collect();
    world.put_all(good).await;
    let full = world.make_key("one-more").await;
    let Err(ServiceError::Conflict { message }) = full else { panic!("{full:?}") };
    assert!(message.contains("1000 keys") && message.contains("revoke one"), "{message}");
    // Its name is found among all of them, not only among the newest.
    world.core.keys().revoke(&caller("kim"), "key-999").await.unwrap();
    let twice = world.make_key("key-0").await;
    assert!(matches!(twice, Err(ServiceError::Conflict { .. })), "{twice:?}");
    world.make_key("one-more").await.unwrap();
}

/// Frozen: keys revoked by an earlier version are among the valid ones, without an expiry. They
/// do not count, and get an expiry step by step.
#[tokio::test]
async fn keys_that_an_earlier_version_revoked_move_out_of_the_way() {
    let world = World::new(EngineConfig::default());
    let old = |n| {
        let revoked = key(n, true, &world);
        let list = encode(&KeyRecord(key(n, false, &world)), None).list;
        let item = encode(&KeyRecord(revoked), None);
        watchbill_core::ports::NewItem { list, expires: None, ..item }
    };
    world.put_all((0..MAX_KEYS).map(old).collect()).await;
    for n in 0..MAX_KEYS / 25 {
        world.make_key(&format!("new-{n}")).await.unwrap();
    }
    let items = world.store.items();
    let without_end =
        items.iter().filter(|item| &*item.kind == "api_key" && item.expires.is_none());
    assert_eq!(without_end.count(), MAX_KEYS / 25, "only the good ones");
    assert_eq!(world.all_keys(1_000).await.len(), MAX_KEYS + MAX_KEYS / 25);
}

#[tokio::test]
async fn tenants_are_walked_page_by_page_whatever_their_number() {
    let world = World::new(EngineConfig::default());
    let name = |n: usize| TenantId::parse(&format!("t{n:04}")).unwrap();
    let fold = |n| Projection {
        tenant: name(n),
        name: STATS_FOLD.into(),
        seq_applied: 0,
        state: json!({}),
    };
    world.put_all((0..1_234).map(|n| encode(&fold(n), None)).collect()).await;
    let all: Vec<TenantId> = (0..1_234).map(name).collect();
    let mut walked: Vec<TenantId> = Vec::new();
    loop {
        let page = world.core.tenants().after(walked.last(), 100).await.unwrap();
        assert!(page.len() <= 100);
        if page.is_empty() {
            break;
        }
        walked.extend(page);
    }
    assert_eq!(walked, all);
    assert!(world.core.tenants().exists(&name(7)).await.unwrap());
    assert!(!world.core.tenants().exists(&TenantId::parse("nobody").unwrap()).await.unwrap());
}

/// Open counts are summed over all tenants; of thousands, some are refreshed at each poll.
#[tokio::test]
async fn figures_of_thousands_of_tenants_are_read_a_part_at_a_time() {
    const TENANTS: usize = 2_601;
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let item = world.store.get(&task_key(&tenant(), &id)).await.unwrap().unwrap();
    let entries = entries_of(LedgerPeek::of(&item).unwrap(), Vec::new(), 0);
    let now = world.clock.now();
    let (batch, _) = Batch::new(tenant(), 1, now, String::new(), 0, entries);
    let mut counted = StatsFold::default();
    counted.apply(&batch);
    let state = serde_json::to_value(&counted).unwrap();
    let fold = |n: usize| {
        let tenant = TenantId::parse(&format!("t{n:04}")).unwrap();
        Projection { tenant, name: STATS_FOLD.into(), seq_applied: 1, state: state.clone() }
    };
    let mut items: Vec<_> = (0..TENANTS).map(|n| encode(&fold(n), None)).collect();
    // One is unreadable: the others count.
    items[7].body = b"{".to_vec().into();
    world.put_all(items).await;
    let store = Arc::new(FaultyStore::counting(world.store.clone(), "T#t"));
    let ports = Ports {
        store: store.clone(),
        blobs: world.blobs.clone(),
        clock: world.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(7)),
        wake: world.wake.clone(),
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    let mut looks = Vec::new();
    for _ in 0..12 {
        let before = store.reads();
        let figures = core.stats().queue().await.unwrap();
        looks.push((figures.queue.pending as usize, figures.partial, store.reads() - before));
        world.clock.advance(Duration::from_secs(1));
    }
    let (pending, partial, read) = looks[0];
    assert!(partial && pending >= 1_900 && read <= 2_500, "{looks:?}");
    assert_eq!((looks[1].0, looks[1].1), (TENANTS - 1, false), "{looks:?}");
    assert!(
        looks[2..].iter().all(|(pending, partial, read)| {
            *pending == TENANTS - 1 && !partial && *read <= 500
        }),
        "{looks:?}"
    );
    // Each one has its turn.
    let read: u64 = looks.iter().map(|(.., read)| read).sum();
    assert!(read as usize >= 2 * TENANTS, "{looks:?}");
}
