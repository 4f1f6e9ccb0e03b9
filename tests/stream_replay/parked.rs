//! A tenant whose ledger fails blocks no shard, and is recorded once the fault is over: the loop
//! that Lambda drives, the recorder and the sweeper together.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use watchbill_domain::{Priority, TenantId};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{Failure, FaultyStore};

use super::record::record;
use super::shard::Shard;
use super::world::World;

/// The changes since the last call, as stream records.
pub fn since(world: &World, seen: &mut usize) -> Vec<EventRecord> {
    world.note_images();
    let stream = world.stream();
    let new = stream[*seen..].iter().enumerate();
    let records = new.map(|(place, change)| record(change, *seen + place + 1)).collect();
    *seen = stream.len();
    records
}

#[tokio::test]
async fn a_failing_tenant_blocks_no_shard() {
    let world = World::new(8);
    let store = Arc::new(FaultyStore::new(world.store.clone()));
    let recorder = world.recorder_over(store.clone());
    let tenants: Vec<TenantId> =
        (0..20).map(|n| TenantId::parse(&format!("t{n}")).unwrap()).collect();
    let (bad, good) = tenants.split_first().unwrap();
    store.fail("T#t0#led#", Failure::Down);
    let mut seen = 0;
    for round in 0..3 {
        for tenant in &tenants {
            world.create_for(tenant, Priority::P2, round == 1).await;
        }
        world.run_all().await;
        let stream = since(&world, &mut seen);
        let mut shard = Shard::new(stream.clone(), 50);
        while !shard.is_empty() {
            shard.hand_over(&recorder, &*world.clock, &world.calls).await;
        }
        assert_eq!(shard.invoked, stream.len().div_ceil(50), "no batch was delivered again");
        for tenant in good {
            world.assert_recorded_for(tenant).await;
        }
    }
    let sweeper = Sweeper::new(world.core.clone(), world.lanes.clone());
    let swept = sweeper.sweep(1_000).await.unwrap();
    assert_eq!((swept.parked.items, swept.parked.tenants), (3, 1));
    assert!(swept.parked.since.is_some());

    store.heal();
    for _ in 0..10 {
        world.clock.advance(Duration::from_secs(900));
        sweeper.sweep(1_000).await.unwrap();
        // A new function each time: it knows only what is stored.
        let recorder = world.recorder_over(store.clone());
        let mut shard = Shard::new(since(&world, &mut seen), 50);
        while !shard.is_empty() {
            shard.hand_over(&recorder, &*world.clock, &world.calls).await;
        }
    }
    assert_eq!(sweeper.sweep(1_000).await.unwrap().parked, Default::default());
    world.assert_recorded_for(bad).await;
}
