//! Tests of listing and following events.

use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, LedgerReader, entries_of, verify};
use watchbill_core::ports::{
    Clock as _, Commit, Precondition, Store as _, Topic, Wake as _, Write,
};
use watchbill_core::repo::{LedgerPeek, task_key};
use watchbill_core::service::EventFilter;
use watchbill_domain::Event;

use crate::common::{World, plain, succeeded, tenant};

/// Appends a batch with the changes of a new task that has run, as the recorder would.
async fn append(world: &World) {
    let id = world.create(plain()).await;
    let run = world.claim(&id).await.unwrap();
    world.end(&id, run.value.fence, succeeded()).await.unwrap();
    let key = task_key(&tenant(), &id);
    let task = LedgerPeek::of(&world.store.get(&key).await.unwrap().unwrap()).unwrap();
    let head = LedgerReader::new(world.store.clone(), tenant()).head().await.unwrap();
    let entries = entries_of(task, Vec::new(), 0);
    let now = world.clock.now();
    let (_, item) = Batch::new(tenant(), head.seq + 1, now, head.hash, head.seq, entries);
    let writes = vec![Write::Put { item, expect: Precondition::Absent }];
    world.store.commit(Commit { id: world.core.entropy().write_id(), writes }).await.unwrap();
    world.wake.wake(&Topic::Ledger(tenant()));
}

#[tokio::test]
async fn paging_back_and_following_see_the_same_events_though_batches_come_in() {
    let world = World::new(EngineConfig::default());
    let filter = EventFilter::default();
    for _ in 0..20 {
        append(&world).await;
        world.clock.advance(Duration::from_secs(2));
    }
    let mut back: Vec<Event> = Vec::new();
    let mut cursor = None;
    loop {
        let page = world.core.events().list(&tenant(), &filter, 7, cursor).await.unwrap();
        back.extend(page.events);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
        // Batches appended meanwhile are newer than all of this paging.
        append(&world).await;
    }
    assert_eq!(back.len(), 60);
    let oldest = back.last().unwrap().event_id.clone();
    let mut followed = vec![back.last().unwrap().clone()];
    let mut after = oldest;
    let mut later = 0;
    loop {
        let page = world
            .core
            .events()
            .after(&tenant(), &filter, (Some(&after), None), 4, Duration::ZERO)
            .await
            .unwrap()
            .events;
        let Some(last) = page.last() else { break };
        after = last.event_id.clone();
        followed.extend(page);
        if later < 5 {
            append(&world).await;
            later += 1;
        }
    }
    let (first, rest) = followed.split_at(60);
    back.reverse();
    assert_eq!(first, back);
    assert_eq!(rest.len(), world.count("task") * 3 - 60);
    let mut ids: Vec<_> = followed.iter().map(|event| event.event_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), followed.len(), "an event came twice");
    let verified = verify(world.store.clone(), &tenant()).await.unwrap();
    assert_eq!(verified.entries, followed.len() as u64);
}

#[tokio::test]
async fn filters_apply_on_every_page() {
    let world = World::new(EngineConfig::default());
    for _ in 0..9 {
        append(&world).await;
    }
    let started = EventFilter { event_type: Some("task.started".into()), task_id: None };
    let page = world.core.events().list(&tenant(), &started, 4, None).await.unwrap();
    let rest = world.core.events().list(&tenant(), &started, 40, page.next_cursor).await.unwrap();
    assert_eq!((page.events.len(), rest.events.len()), (4, 5));
    let id = page.events[0].task_id.clone();
    let of_task = EventFilter { event_type: Some("task.".into()), task_id: id.clone() };
    let events = world.core.events().list(&tenant(), &of_task, 40, None).await.unwrap().events;
    assert!(events.len() == 3 && events.iter().all(|event| event.task_id == id));
}

#[tokio::test]
async fn a_follower_that_waits_is_woken_by_the_next_batch() {
    let world = std::sync::Arc::new(World::new(EngineConfig::default()));
    append(&world).await;
    let follower = tokio::spawn({
        let world = world.clone();
        async move {
            let (filter, wait) = (EventFilter::default(), Duration::from_secs(20));
            world.core.events().after(&tenant(), &filter, (None, None), 10, wait).await
        }
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!follower.is_finished(), "there is nothing new yet");
    append(&world).await;
    let events = follower.await.unwrap().unwrap().events;
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["task.created", "task.started", "task.completed"]);
}
