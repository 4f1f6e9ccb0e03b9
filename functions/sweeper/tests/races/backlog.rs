//! Full lanes: a task waiting in one does not count as a lost message, and costs few writes.

use watchbill_core::ports::{LaneMessage, Lanes as _};

use super::*;

async fn fill_the_lane(world: &World) {
    let other = LaneMessage {
        tenant: tenant(),
        task_id: TaskId::parse("other").unwrap(),
        assignment: 1,
        agent: Agent::Ops,
        priority: Priority::P3,
        trace_id: "trace".into(),
    };
    world.lanes.enqueue(vec![(other, Duration::ZERO)]).await.unwrap();
}

#[tokio::test]
async fn a_lane_with_a_backlog_is_no_lost_pointer() {
    let world = World::new(EngineConfig::default(), 1);
    let id = world.create(Priority::P3).await;
    fill_the_lane(&world).await;
    for _ in 0..40 {
        world.to_next_due();
        world.sweep().await;
    }
    let task = world.stored(&id).await.value;
    assert_eq!((task.status, task.offers), (Status::Assigned, 0));
    world.lanes.take_all();
    while world.stored(&id).await.value.status == Status::Assigned {
        world.to_next_due();
        world.sweep().await;
    }
    world.assert_nothing_due();
}

/// The message is lost and the lane is full, so re-enqueues end up hours apart. Once the lane is
/// empty, the task is enqueued within the next sweeps rather than at its next check.
#[tokio::test]
async fn a_lost_message_is_enqueued_once_the_backlog_is_over() {
    let world = World::new(EngineConfig::default(), 1);
    let mut tasks = Vec::new();
    for _ in 0..150 {
        tasks.push(world.create(Priority::P3).await);
    }
    fill_the_lane(&world).await;
    let sweeper = world.sweeper();
    for _ in 0..6 {
        world.to_next_due();
        sweeper.sweep(100_000).await.unwrap();
    }
    let before = world.stored(&tasks[0]).await;
    assert!(before.due.unwrap().since(world.clock.now()) > Duration::from_secs(3 * 3_600));
    assert_eq!(world.times(&tasks[0], "offered").await, 0, "an excused offer is not told");
    world.lanes.take_all();
    world.clock.advance(Duration::from_secs(60));
    sweeper.sweep(100_000).await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    sweeper.sweep(100_000).await.unwrap();
    for id in &tasks {
        let stored = world.stored(id).await;
        assert_eq!(stored.value.offered_version, stored.version, "the router sends a pointer");
        assert_eq!((stored.value.excused, stored.value.offers), (0, 0));
    }
    // No task is enqueued twice for it.
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(sweeper.sweep(100_000).await.unwrap().changed, 0);
}

#[tokio::test]
async fn a_day_behind_a_backlog_costs_a_task_few_writes() {
    let world = World::new(EngineConfig::default(), 1);
    let id = world.create(Priority::P3).await;
    fill_the_lane(&world).await;
    let end = world.clock.now().plus(Duration::from_secs(24 * 3_600 - 1));
    while world.clock.now() < end {
        world.to_next_due();
        world.sweep().await;
    }
    let stored = world.stored(&id).await;
    // Its creation, eight enqueues, the SLA's warning and violation.
    assert!(stored.version <= 11, "{} writes", stored.version);
    assert!(stored.value.log.len() <= 3, "{:?}", stored.value.log);
}
