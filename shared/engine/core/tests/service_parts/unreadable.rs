//! One item of many is unreadable: the others are returned, with the number of unreadable ones.

use std::sync::Arc;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, LedgerReader, entries_of};
use watchbill_core::ports::{
    Clock as _, Commit, Item, Key, NewItem, Precondition, Store as _, Write, WriteId,
};
use watchbill_core::repo::{
    CHILDREN, EffectRecord, LOGS, LedgerPeek, PAYLOAD, STEPS, encode, task_key,
};
use watchbill_core::service::{Core, EventFilter, NewTask, Ports, ServiceError, TaskFilter};
use watchbill_domain::{Role, TaskId};
use watchbill_testkit::{Failure, FaultyStore, SeededEntropy};

use crate::common::{World, caller, new_task, object, plain, tenant};

#[derive(Clone, Copy, Debug)]
enum Damage {
    Body,
    Newer,
    /// The store cannot read it.
    Row,
}

const ALL: [Damage; 3] = [Damage::Body, Damage::Newer, Damage::Row];

/// A test environment, and a core that reads its store with faults.
fn damaged_world() -> (World, Core, Arc<FaultyStore>) {
    let world = World::new(EngineConfig::default());
    let faults = Arc::new(FaultyStore::new(world.store.clone()));
    let ports = Ports {
        store: faults.clone(),
        blobs: world.blobs.clone(),
        clock: world.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(7)),
        wake: world.wake.clone(),
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    (world, core, faults)
}

async fn damage(world: &World, faults: &FaultyStore, key: &Key, how: Damage) {
    let item = world.store.get(key).await.unwrap().unwrap();
    match how {
        Damage::Body => rewrite(world, item, b"{\"id".to_vec(), 1).await,
        Damage::Newer => {
            let body = item.body.to_vec();
            rewrite(world, item, body, 9).await;
        }
        Damage::Row => faults.fail(&key.to_string(), Failure::Corrupt),
    }
}

async fn rewrite(world: &World, item: Item, body: Vec<u8>, schema: u16) {
    let new = NewItem {
        key: item.key,
        kind: item.kind.to_string().into(),
        schema,
        body: body.into(),
        list: item.list,
        list2: item.list2,
        due: item.due,
        expires: item.expires,
    };
    let writes = vec![Write::Put { item: new, expect: Precondition::Version(item.version) }];
    world.store.commit(Commit { id: WriteId(3), writes }).await.unwrap();
}

#[tokio::test]
async fn a_list_of_tasks_counts_what_it_leaves_out() {
    for how in ALL {
        let (world, core, faults) = damaged_world();
        let mut ids = Vec::new();
        for _ in 0..9 {
            ids.push(world.create(plain()).await);
        }
        // The second, and the second newest.
        for bad in [&ids[1], &ids[7]] {
            damage(&world, &faults, &task_key(&tenant(), bad), how).await;
        }
        for limit in [1, 2, 3, 50] {
            let (mut found, mut unreadable, mut cursor) = (0, 0, None);
            loop {
                let page =
                    core.tasks().list(&tenant(), &TaskFilter::default(), limit, cursor).await;
                let page = page.unwrap();
                found += page.entries.len();
                unreadable += page.unreadable;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!((found, unreadable), (7, 2), "{how:?}, pages of {limit}: each once");
        }
        let by_id = core.tasks().get_many(&tenant(), &ids).await.unwrap();
        let missing: Vec<_> = (0..9).filter(|n| by_id[*n].is_none()).collect();
        assert_eq!(missing, [1, 7], "{how:?}");
        assert_eq!(core.context().unreadable_items(), 2, "{how:?}");
    }
}

#[tokio::test]
async fn lists_of_approvals_and_keys_count_what_they_leave_out() {
    for how in ALL {
        let (world, core, faults) = damaged_world();
        for n in 0..5 {
            let gated = new_task(watchbill_domain::TaskType::Deploy, plain().priority);
            world.create(gated).await;
            let name = format!("ci-{n}");
            world.core.keys().create(&caller("root"), &tenant(), &name, Role::User).await.unwrap();
        }
        for kind in ["approval", "api_key"] {
            let items = world.store.items();
            let of_kind = items.iter().filter(|item| &*item.kind == kind);
            let second = of_kind.map(|item| item.key.clone()).nth(1).unwrap();
            damage(&world, &faults, &second, how).await;
        }
        for limit in [1, 2, 50] {
            let (mut found, mut unreadable, mut cursor) = (0, 0, None);
            loop {
                let page = core.approvals().pending(&tenant(), limit, cursor).await.unwrap();
                found += page.entries.len();
                unreadable += page.unreadable;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!((found, unreadable), (4, 1), "{how:?}, approvals, pages of {limit}");
            loop {
                let page = core.keys().list(&tenant(), limit, cursor).await.unwrap();
                found += page.keys.len();
                unreadable += page.unreadable;
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!((found, unreadable), (8, 2), "{how:?}, and keys, pages of {limit}");
        }
    }
}

/// An unreadable item next to a header does not remove the task from a list, nor one child the
/// others.
#[tokio::test]
async fn unreadable_parts_of_a_task_are_skipped() {
    for how in ALL {
        let (world, core, faults) = damaged_world();
        let text = "x".repeat(2_000);
        let payload = object(serde_json::json!({"description": "long", "text": text}));
        let id = world.create(NewTask { payload, ..plain() }).await;
        let mut children = Vec::new();
        for _ in 0..3 {
            children.push(world.create(NewTask { parent: Some(id.clone()), ..plain() }).await);
        }
        for n in 0..3 {
            put_step(&world, &id, n).await;
        }
        let partition = task_key(&tenant(), &id).partition;
        let nth = |prefix: &'static str, n: usize| {
            let (store, partition) = (world.store.clone(), partition.clone());
            async move { store.collect(&partition, prefix).await.unwrap()[n].key.clone() }
        };
        damage(&world, &faults, &nth(CHILDREN, 1).await, how).await;
        damage(&world, &faults, &nth(STEPS, 0).await, how).await;
        let full = core.tasks().get(&tenant(), &id).await.unwrap();
        children.remove(1);
        assert_eq!(full.children, children, "{how:?}");
        let timeline = core.tasks().timeline_page(&tenant(), &id, None).await.unwrap();
        let steps = timeline.entries.iter().filter(|entry| entry.what.starts_with("step-"));
        assert_eq!((steps.count(), timeline.unreadable), (2, 1), "{how:?}");

        // A body has no schema of its own.
        if !matches!(how, Damage::Newer) {
            damage(&world, &faults, &Key::new(partition.clone(), PAYLOAD), how).await;
            let error = core.tasks().get(&tenant(), &id).await.unwrap_err();
            assert!(matches!(error, ServiceError::Unreadable { .. }), "{how:?}: {error}");
            let page =
                core.tasks().list(&tenant(), &TaskFilter::default(), 50, None).await.unwrap();
            let listed = page.entries.iter().find(|full| full.task.id == id).unwrap();
            assert_eq!(page.entries.len(), 4, "{how:?}");
            assert!(listed.payload.contains_key("left_out"), "{how:?}: {:?}", listed.payload);
        }
    }
}

async fn put_step(world: &World, id: &TaskId, n: u64) {
    let now = world.clock.now();
    let step = EffectRecord {
        tenant: tenant(),
        task: id.clone(),
        key: format!("step-{n}"),
        what: "restart".into(),
        target: "web".into(),
        provider_key: format!("p-{n}"),
        fence: 1,
        intended_at: now,
        settles_at: now,
        outcome: None,
        call_hash: None,
        expires: None,
    };
    let writes = vec![Write::Put { item: encode(&step, None), expect: Precondition::Absent }];
    let id = WriteId(u128::from(n) + 10);
    world.store.commit(Commit { id, writes }).await.unwrap();
}

/// An unreadable overflow item: the other changes are shown.
#[tokio::test]
async fn a_timeline_skips_unreadable_overflow() {
    let (world, core, faults) = damaged_world();
    let id = world.create(NewTask { max_retries: Some(100), ..plain() }).await;
    for _ in 0..20 {
        let run = world.claim(&id).await.unwrap();
        let retry = Some(std::time::Duration::ZERO);
        let ending = watchbill_core::decide::RunResult::Failed { error: "no".into(), retry };
        world.end(&id, run.value.fence, ending).await.unwrap();
        world.clock.advance(std::time::Duration::from_secs(3_600));
    }
    let whole = core.tasks().timeline_page(&tenant(), &id, None).await.unwrap();
    let partition = task_key(&tenant(), &id).partition;
    let left = world.store.collect(&partition, LOGS).await.unwrap();
    assert!(left.len() > 1, "{}", left.len());
    faults.fail(&left[0].key.to_string(), Failure::Corrupt);
    let rest = core.tasks().timeline_page(&tenant(), &id, None).await.unwrap();
    assert_eq!((whole.unreadable, rest.unreadable), (0, 1));
    let (whole, rest) = (whole.entries.len(), rest.entries.len());
    assert!(rest < whole && rest > whole / 2, "{rest} of {whole}");
}

/// An unreadable ledger batch: its events are missing, those before and after are returned.
#[tokio::test]
async fn events_are_listed_and_followed_past_a_batch_that_cant_be_read() {
    for how in [Damage::Body, Damage::Row] {
        let (world, core, faults) = damaged_world();
        let mut last = watchbill_core::ledger::Head::default();
        for _ in 0..3 {
            let id = world.create(plain()).await;
            let item = world.store.get(&task_key(&tenant(), &id)).await.unwrap().unwrap();
            let entries = entries_of(LedgerPeek::of(&item).unwrap(), Vec::new(), 0);
            let now = world.clock.now();
            let (_, item) = Batch::new(tenant(), last.seq + 1, now, last.hash, last.seq, entries);
            let writes = vec![Write::Put { item, expect: Precondition::Absent }];
            world.store.commit(Commit { id: WriteId(40), writes }).await.unwrap();
            last = LedgerReader::new(world.store.clone(), tenant()).head().await.unwrap();
        }
        let filter = EventFilter::default();
        let all = core.events().list(&tenant(), &filter, 100, None).await.unwrap();
        assert_eq!((all.unreadable, all.next_cursor), (0, None));
        let second = watchbill_core::repo::ledger_key(&tenant(), 2);
        damage(&world, &faults, &second, how).await;
        let rest = core.events().list(&tenant(), &filter, 100, None).await.unwrap();
        assert_eq!((rest.unreadable, &rest.next_cursor), (1, &None), "{how:?}");
        assert_eq!(rest.events.len() * 3, all.events.len() * 2, "{how:?}");
        let oldest = all.events.last().unwrap().event_id.clone();
        let wait = std::time::Duration::ZERO;
        let followed = core
            .events()
            .after(&tenant(), &filter, (Some(&oldest), None), 100, wait)
            .await
            .unwrap();
        assert_eq!(followed.events.len(), rest.events.len() - 1, "{how:?}");
        assert_eq!(followed.unreadable, 1, "{how:?}");
    }
}
