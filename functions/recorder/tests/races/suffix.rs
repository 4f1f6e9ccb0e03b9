//! How much of the ledger a new recorder reads for a change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::RunResult;
use watchbill_domain::{Priority, TenantId};
use watchbill_recorder::Recorder;
use watchbill_testkit::{FaultyStore, MemoryBus};

use crate::world::*;

/// A task with many changes, the first of them weeks ago: a change of today is searched for in
/// what was recorded today, whatever the header's log no longer holds.
#[tokio::test]
async fn a_catch_up_reads_the_ledger_since_the_changes_own_time() {
    let mut counting = None;
    let world = World::over(1, |store| {
        let store = Arc::new(FaultyStore::counting(store, "T#default#led#"));
        counting = Some(store.clone());
        store
    });
    let counting = counting.expect("it was made");
    let fails = || RunResult::Failed { error: "no route".into(), retry: None };
    let recorder = world.recorder();
    let id = world.create(Priority::P2).await;
    let mut seen = 0;
    // A batch each day for weeks, and then some on the last.
    for day in 0..40 {
        let fence = world.claim(&id).await;
        world.end(&id, fence, fails()).await;
        world.publish(day).await;
        world.rewrite(&id, 1).await;
        seen = record_from(&world, &recorder, seen).await;
        world.clock.advance(Duration::from_secs(86_400));
    }
    recorder.save().await.unwrap();
    let today = world.store.last_seq();
    for _ in 0..12 {
        let fence = world.claim(&id).await;
        world.end(&id, fence, fails()).await;
    }
    let all: Vec<_> =
        world.store.changes(today, usize::MAX).into_iter().map(|(_, change)| change).collect();
    recorder.record(&all).await.unwrap();
    // The newest batch, which a start publishes again, is not the task's.
    let seen = world.store.last_seq();
    world.publish(1_000).await;
    record_from(&world, &recorder, seen).await;
    recorder.save().await.unwrap();
    let before = world.entries().await;

    // The feed from there again, each change with the newest image, by a recorder that just
    // started.
    let next = world.recorder();
    catch_up(&next).await;
    let opened = counting.reads();
    for change in &all {
        next.record(std::slice::from_ref(change)).await.unwrap();
    }
    let read = counting.reads() - opened;
    assert!(read <= 4, "{read} batches were read for changes of one moment");
    assert_eq!(world.entries().await, before, "all of it was known");
}

async fn record_from(world: &World, recorder: &watchbill_recorder::Recorder, seen: u64) -> u64 {
    let changes = world.store.changes(seen, usize::MAX);
    let last = changes.last().map_or(seen, |(seq, _)| *seq);
    let changes: Vec<_> = changes.into_iter().map(|(_, change)| change).collect();
    recorder.record(&changes).await.unwrap();
    last
}

/// Thousands of tenants are caught up with in several calls, and each gets its turn.
#[tokio::test]
async fn a_catch_up_deals_with_so_many_tenants_at_once() {
    let world = World::new(3, 0);
    let tenants: Vec<TenantId> =
        (0..1_050).map(|n| TenantId::parse(&format!("t{n:04}")).unwrap()).collect();
    for tenant in &tenants {
        world.create_for(tenant, Priority::P2).await;
    }
    // A process that recorded everything and died before it published any of it.
    world.bus.refuse_next(usize::MAX);
    feed(&world.recorder(), &world.changes(), 500).await;
    let bus = Arc::new(MemoryBus::new());
    let next = Recorder::new(world.core.clone(), bus.clone());
    let (mut after, mut told) = (None, 0);
    loop {
        after = next.catch_up(after.as_ref()).await.unwrap();
        let now: BTreeSet<TenantId> = bus.events().into_iter().map(|(tenant, _)| tenant).collect();
        assert!(now.len() - told <= 100, "{} in one call", now.len() - told);
        told = now.len();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(told, tenants.len());
}
