//! A store that is busy, or whose responses get lost, with and without effect.

use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock as _, Commit, Key, NewItem, Precondition, Store as _, Write};
use watchbill_core::service::{NewEvent, NewTask};
use watchbill_domain::{ApprovalId, Priority, Status, TaskType};

use crate::common::{World, caller, new_task, object, plain, succeeded, tenant, whats};

/// Puts an item back with a change.
pub async fn rewrite(world: &World, key: &Key, change: impl FnOnce(&mut NewItem)) {
    let old = world.store.get(key).await.unwrap().unwrap();
    let mut item = NewItem {
        key: old.key.clone(),
        kind: old.kind.to_string().into(),
        schema: old.schema,
        body: old.body.clone(),
        list: old.list.clone(),
        list2: old.list2.clone(),
        due: old.due,
        expires: old.expires,
    };
    change(&mut item);
    let writes = vec![Write::Put { item, expect: Precondition::Version(old.version) }];
    world.store.commit(Commit { id: world.core.entropy().write_id(), writes }).await.unwrap();
}

fn event(id: &str) -> NewEvent {
    NewEvent {
        tenant: tenant(),
        event_type: "deploy.failed".into(),
        source_agent: "ci".into(),
        payload: object(serde_json::json!({"project": "shop"})),
        task_id: None,
        trace_id: None,
        priority: None,
        published_by: "ci".into(),
        event_id: Some(id.into()),
        hops: 0,
    }
}

#[tokio::test]
async fn reply_of_a_commit_lost_and_every_call_still_happens_once() {
    for seed in 0..150 {
        // Low enough that nine wrong responses in a row, after which a caller gets an error,
        // are not to be expected.
        let world = World::flaky(EngineConfig::default(), seed, 20);
        let plain_id = world.create(NewTask { payload: long(), ..plain() }).await;
        let run = world.claim(&plain_id).await.unwrap();
        world.end(&plain_id, run.value.fence, succeeded()).await.unwrap();
        let stored = world.stored(&plain_id).await;
        assert_eq!(whats(&stored), ["created", "claimed", "completed"], "seed {seed}");
        assert_eq!((stored.version, stored.value.fence), (3, 1));

        let gated = world.create(new_task(TaskType::Faq, Priority::P0)).await;
        world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&gated, 1)).await.unwrap();
        world.core.tasks().cancel(&caller("kim"), &gated, None).await.unwrap();
        let stored = world.stored(&gated).await;
        assert_eq!(whats(&stored), ["created", "approved", "cancelled"], "seed {seed}");

        let child = NewTask { parent: Some(plain_id.clone()), ..plain() };
        let child = world.create(child).await;
        let parent = world.core.tasks().get(&tenant(), &plain_id).await.unwrap();
        assert_eq!(parent.children, std::slice::from_ref(&child), "seed {seed}");
        world.core.tasks().cancel(&caller("kim"), &child, None).await.unwrap();

        world.core.events().publish(event("e-1")).await.unwrap();
        world.core.keys().create(&caller("root"), &tenant(), "ci", caller("x").role).await.unwrap();
        let kinds = ["task", "approval", "child", "event", "api_key", "body"];
        assert_eq!(kinds.map(|kind| world.count(kind)), [3, 1, 1, 1, 1, 1], "seed {seed}");
        let open = world.store.items().iter().filter(|item| item.due.is_some()).count();
        assert_eq!(open, 0, "seed {seed}");
        assert_eq!(stored.value.status, Status::Cancelled);
    }
}

fn long() -> serde_json::Map<String, serde_json::Value> {
    object(serde_json::json!({"description": "long", "text": "x".repeat(600)}))
}

#[tokio::test]
async fn an_event_published_again_under_its_id_is_the_same_event() {
    let world = World::flaky(EngineConfig::default(), 3, 20);
    let published =
        futures_util::future::join_all((0..16).map(|_| world.core.events().publish(event("e-1"))))
            .await;
    let first = published[0].as_ref().unwrap();
    world.clock.sleep(std::time::Duration::from_secs(60)).await;
    let later = world.core.events().publish(event("e-1")).await.unwrap();
    assert!(published.iter().flatten().all(|event| event == first) && later == *first);
    assert_eq!((published.iter().flatten().count(), world.count("event")), (16, 1));
    let reserved = NewEvent { event_type: "approval.approved".into(), ..event("e-2") };
    assert!(world.core.events().publish(reserved).await.is_err());
}
