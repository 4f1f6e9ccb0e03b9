//! What a single stream may do to router and recorder: crashes, repeats, faults and losses.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use watchbill_core::ports::{Change, Entropy as _, LaneMessage};
use watchbill_core::repo::task_key;
use watchbill_domain::{Agent, Priority, Status};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::SeededEntropy;

use super::parked::since;
use super::record::{damaged, poison, record};
use super::shard::Shard;
use super::world::{World, history, tenant};

fn records<'c>(changes: impl IntoIterator<Item = &'c Change>) -> Vec<EventRecord> {
    changes.into_iter().enumerate().map(|(seq, change)| record(change, seq + 1)).collect()
}

fn references(world: &World) -> Vec<LaneMessage> {
    world.lanes.take_all().into_iter().map(|(message, _)| message).collect()
}

/// Replays a shard through a router until it is empty; a new router follows each crash.
async fn route(world: &World, shard: &mut Shard) {
    let mut router = world.router();
    while !shard.is_empty() {
        if !shard.hand_over(&router, &*world.clock, &world.calls).await {
            router = world.router();
        }
    }
}

async fn take_down(world: &World, shard: &mut Shard) {
    let mut recorder = world.recorder();
    while !shard.is_empty() {
        if !shard.hand_over(&recorder, &*world.clock, &world.calls).await {
            recorder = world.recorder();
        }
    }
}

#[tokio::test]
async fn a_router_may_crash_between_any_two_calls() {
    let world = history(1).await;
    let stream = records(&world.stream());
    for point in 1.. {
        let mut shard = Shard::new(stream.clone(), 10);
        world.calls.end_at(point);
        route(&world, &mut shard).await;
        world.assert_all_enqueued(&references(&world));
        if shard.invoked == stream.len().div_ceil(10) {
            assert!(point > 10, "no call was counted");
            return;
        }
    }
}

#[tokio::test]
async fn a_recorder_may_crash_between_any_two_calls() {
    for point in 1.. {
        let world = history(2).await;
        let stream = records(&world.stream());
        let mut shard = Shard::new(stream.clone(), 16);
        world.calls.end_at(point);
        take_down(&world, &mut shard).await;
        world.assert_recorded().await;
        if shard.invoked == stream.len().div_ceil(16) {
            assert!(point > 10, "no call was counted");
            return;
        }
    }
}

/// Several shards with a function each, in any order. Now and then they go back to earlier
/// records, as after an error or when a mapping is created again.
#[tokio::test]
async fn repeated_and_reordered_records_change_nothing() {
    for seed in 0..20 {
        let world = history(seed).await;
        let random = SeededEntropy::new(seed);
        let any = |below: usize| (random.next_u64() % below as u64) as usize;
        let mut shards = shards(&world.stream(), 4);
        let (mut routers, mut recorders) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            routers.push(world.router());
            recorders.push(world.recorder());
        }
        let mut again = shards.iter().map(|s| Shard::new(s.clone(), 7)).collect::<Vec<_>>();
        let mut shards: Vec<_> = shards.drain(..).map(|s| Shard::new(s, 5)).collect();
        while shards.iter().chain(&again).any(|shard| !shard.is_empty()) {
            let n = any(4);
            shards[n].hand_over(&routers[n], &*world.clock, &world.calls).await;
            again[n].hand_over(&recorders[n], &*world.clock, &world.calls).await;
            if any(6) == 0 && shards[n].invoked < 200 {
                shards[n].back(any(20));
                again[n].back(any(20));
            }
        }
        world.assert_all_enqueued(&references(&world));
        world.assert_recorded().await;
    }
}

/// A key's changes stay in one shard, which keeps their order; other keys don't wait for them.
fn shards(changes: &[Change], number: usize) -> Vec<Vec<EventRecord>> {
    let mut shards = vec![Vec::new(); number];
    for (seq, change) in changes.iter().enumerate() {
        let of_key: usize = change.key.partition.bytes().map(usize::from).sum();
        shards[of_key % number].push(record(change, seq + 1));
    }
    shards
}

#[tokio::test]
async fn an_unreadable_record_does_not_block_the_shard() {
    let world = history(3).await;
    let mut stream = records(&world.stream());
    for place in [0, 7, 8, stream.len() / 2, stream.len()] {
        stream.insert(place, poison(10_000 + place));
    }
    let mut shard = Shard::new(stream.clone(), 10);
    route(&world, &mut shard).await;
    world.assert_all_enqueued(&references(&world));
    assert_eq!(shard.invoked, stream.len().div_ceil(10), "no batch was delivered again");
    let mut shard = Shard::new(stream, 10);
    take_down(&world, &mut shard).await;
    world.assert_recorded().await;
}

/// Its shard continues. The task is due, is enqueued a few more times, and then fails where its
/// owner sees it and may retry it.
#[tokio::test]
async fn a_message_that_the_lanes_always_refuse_blocks_no_shard() {
    let world = World::new(9);
    let bad = world.create(Priority::P2, false).await;
    world.lanes.never_take(bad.clone());
    for _ in 0..20 {
        world.create(Priority::P2, false).await;
    }
    let sweeper = Sweeper::new(world.core.clone(), world.lanes.clone());
    let mut seen = 0;
    for _ in 0..40 {
        let mut shard = Shard::new(since(&world, &mut seen), 10);
        let batches = shard.left().div_ceil(10);
        route(&world, &mut shard).await;
        assert_eq!(shard.invoked, batches, "no batch was delivered again");
        for message in references(&world) {
            assert!(world.work(&message).await);
        }
        world.clock.advance(Duration::from_secs(3_600));
        sweeper.sweep(1_000).await.expect("it sweeps");
    }
    for task in world.tasks() {
        let wanted = if task.id == bad { Status::Failed } else { Status::Completed };
        assert_eq!(task.status, wanted, "{}: {:?}", task.id, task.error);
    }
}

/// An unreadable record is kept by its key: it is visible, and recorded once it can be read.
#[tokio::test]
async fn an_unreadable_record_is_parked_and_recorded_later() {
    let world = history(10).await;
    let key = task_key(&tenant(), &world.tasks()[3].id);
    let changes = world.stream();
    let damage = |(n, change): (usize, &Change)| match change.key == key {
        true => damaged(change, n + 1),
        false => record(change, n + 1),
    };
    let stream: Vec<EventRecord> = changes.iter().enumerate().map(damage).collect();
    let mut shard = Shard::new(stream.clone(), 16);
    take_down(&world, &mut shard).await;
    assert_eq!(shard.invoked, stream.len().div_ceil(16), "no batch was delivered again");
    let mut seen = world.stream().len();
    let sweeper = Sweeper::new(world.core.clone(), world.lanes.clone());
    let parked = world.core.parking().summary().await.expect("the store answers");
    assert_eq!(parked.items, 1);
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(15 * 60));
        sweeper.sweep(1_000).await.expect("it sweeps");
        take_down(&world, &mut Shard::new(since(&world, &mut seen), 10)).await;
    }
    world.assert_recorded().await;
    let parked = world.core.parking().summary().await.expect("the store answers");
    assert_eq!(parked.items, 0);
}

#[tokio::test]
async fn records_are_delivered_again_after_lanes_or_bus_fail() {
    let world = history(4).await;
    let stream = records(&world.stream());
    let mut shard = Shard::new(stream.clone(), 10);
    world.lanes.refuse_next(9);
    route(&world, &mut shard).await;
    world.lanes.lose_answers(5);
    let mut again = Shard::new(stream.clone(), 10);
    route(&world, &mut again).await;
    world.assert_all_enqueued(&references(&world));
    assert!(shard.invoked > stream.len().div_ceil(10), "some batches were delivered again");
    world.bus.refuse_next(7);
    world.store.refuse_next(5);
    world.store.lose_answers(5);
    take_down(&world, &mut Shard::new(stream, 10)).await;
    // What the bus did not accept is published when the sweeper requests it.
    let mut seen = world.stream().len();
    let sweeper = Sweeper::new(world.core.clone(), world.lanes.clone());
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(15 * 60));
        sweeper.sweep(1_000).await.expect("it sweeps");
        take_down(&world, &mut Shard::new(since(&world, &mut seen), 10)).await;
    }
    world.assert_recorded().await;
}

/// The most urgent messages of one batch are sent first, whatever the order of the stream.
#[tokio::test]
async fn p0_goes_first_in_a_batch() {
    let world = World::new(5);
    for n in 0..40 {
        world.create(Priority::ALL[3 - n % 4], false).await;
    }
    let mut shard = Shard::new(records(&world.stream()), 1_000);
    route(&world, &mut shard).await;
    let lanes: Vec<Priority> = references(&world).iter().map(|message| message.priority).collect();
    assert_eq!(lanes.len(), 40);
    assert!(lanes.is_sorted(), "{lanes:?}");
}

/// A new mapping reads the stream from its beginning, a day back.
#[tokio::test]
async fn reading_a_day_of_the_stream_again_changes_nothing() {
    let world = history(6).await;
    let stream = records(&world.stream());
    route(&world, &mut Shard::new(stream.clone(), 100)).await;
    take_down(&world, &mut Shard::new(stream.clone(), 100)).await;
    world.assert_recorded().await;
    assert!(world.tasks().iter().all(|task| task.status == Status::Completed), "all ended");
    references(&world);
    let (before, sent) = (world.stored(), world.bus.events().len());
    world.clock.advance(Duration::from_secs(23 * 3600));

    route(&world, &mut Shard::new(stream.clone(), 100)).await;
    for message in references(&world) {
        assert!(world.work(&message).await, "a reference to an ended task is acknowledged");
    }
    take_down(&world, &mut Shard::new(stream, 100)).await;
    assert_eq!(world.stored(), before, "nothing is written");
    let again = world.bus.events().len() - sent;
    assert!(
        again <= sent,
        "only events that an earlier recorder may not have sent are published again"
    );
    world.assert_recorded().await;
}

/// The stream loses every third record. Open tasks have a due time, so they are checked again.
#[tokio::test]
async fn a_task_whose_records_are_lost_still_ends() {
    let world = World::new(7);
    for n in 0..30 {
        world.create(Priority::ALL[n % 4], n % 5 == 0).await;
    }
    let (mut seen, mut written) = (0, 0);
    for _ in 0..40 {
        let stream = world.stream();
        let kept: Vec<Change> = stream[seen..]
            .iter()
            .filter(|_| {
                written += 1;
                written % 3 != 0
            })
            .cloned()
            .collect();
        seen = stream.len();
        route(&world, &mut Shard::new(records(&kept), 10)).await;
        for (message, delay) in world.lanes.take_all() {
            world.clock.advance(delay);
            world.work(&message).await;
        }
        world.clock.advance(Duration::from_secs(15 * 60 + 1));
        Sweeper::new(world.core.clone(), world.lanes.clone())
            .sweep(1_000)
            .await
            .expect("it sweeps");
        world.note_images();
        if world.tasks().iter().all(|task| task.status == Status::Completed) {
            assert!(world.tasks().iter().all(|task| task.agent == Agent::Ops));
            return;
        }
    }
    let open: Vec<_> = world.tasks().into_iter().filter(|t| t.status.is_open()).collect();
    panic!("still open: {open:?}");
}
