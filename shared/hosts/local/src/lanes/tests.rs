//! Tests of the lanes: priorities, shares, tenants, visibility, delays and duplicates.

use std::collections::BTreeMap;

use watchbill_domain::{TaskId, TenantId};
use watchbill_testkit::FakeClock;

use super::*;

pub(super) fn message(tenant: &str, task: &str, priority: Priority) -> LaneMessage {
    LaneMessage {
        tenant: TenantId::parse(tenant).unwrap(),
        task_id: TaskId::parse(task).unwrap(),
        assignment: 1,
        agent: Agent::Ops,
        priority,
        trace_id: "t".into(),
    }
}

pub(super) fn lanes() -> (Arc<LocalLanes>, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::default());
    (LocalLanes::new(clock.clone(), Duration::from_secs(75)), clock)
}

pub(super) async fn offer(lanes: &LocalLanes, message: LaneMessage) {
    lanes.enqueue(vec![(message, Duration::ZERO)]).await.unwrap();
}

#[tokio::test]
async fn p0_goes_first_and_has_a_slot_of_its_own() {
    let (lanes, _) = lanes();
    for i in 0..10 {
        offer(&lanes, message("a", &format!("p3-{i}"), Priority::P3)).await;
    }
    offer(&lanes, message("a", "urgent", Priority::P0)).await;
    let first = lanes.take(Slot::Any).await.unwrap();
    assert_eq!(first.message.task_id.as_str(), "urgent");
    offer(&lanes, message("a", "urgent-2", Priority::P0)).await;
    let kept = lanes.take(Slot::OnlyP0).await.unwrap();
    assert_eq!(kept.message.task_id.as_str(), "urgent-2");
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P3).await.unwrap(), 10);
}

#[tokio::test]
async fn shares_hold_while_all_wait_and_go_to_others_when_one_is_idle() {
    let (lanes, _) = lanes();
    for i in 0..1000 {
        for (name, priority) in [("1", Priority::P1), ("2", Priority::P2), ("3", Priority::P3)] {
            offer(&lanes, message("a", &format!("{name}-{i}"), priority)).await;
        }
    }
    let mut starts: BTreeMap<Priority, u32> = BTreeMap::new();
    for _ in 0..1000 {
        let delivery = lanes.take(Slot::Any).await.unwrap();
        *starts.entry(delivery.message.priority).or_default() += 1;
        delivery.done();
    }
    for (priority, share) in [(Priority::P1, 500), (Priority::P2, 300), (Priority::P3, 200)] {
        assert!(starts[&priority].abs_diff(share) <= 2, "{starts:?}");
    }
    // P1 is used up after 500 more; the rest belongs to the two others, 3 to 2.
    for _ in 0..1500 {
        lanes.take(Slot::Any).await.unwrap().done();
    }
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P1).await.unwrap(), 0);
}

#[tokio::test]
async fn a_class_that_was_idle_has_no_arrears() {
    let (lanes, _) = lanes();
    for i in 0..300 {
        offer(&lanes, message("a", &format!("2-{i}"), Priority::P2)).await;
    }
    for _ in 0..200 {
        lanes.take(Slot::Any).await.unwrap().done();
    }
    for i in 0..100 {
        offer(&lanes, message("a", &format!("3-{i}"), Priority::P3)).await;
    }
    let mut low = 0;
    for _ in 0..50 {
        let delivery = lanes.take(Slot::Any).await.unwrap();
        low += u32::from(delivery.message.priority == Priority::P3);
        delivery.done();
    }
    assert!((18..=22).contains(&low), "{low} of 50 starts, 20 are its share");
}

#[tokio::test]
async fn tenants_take_turns() {
    let (lanes, _) = lanes();
    for i in 0..100 {
        offer(&lanes, message("loud", &format!("l{i}"), Priority::P2)).await;
    }
    offer(&lanes, message("quiet", "q", Priority::P2)).await;
    let mut before = 0;
    loop {
        let delivery = lanes.take(Slot::Any).await.unwrap();
        let quiet = delivery.message.tenant.as_str() == "quiet";
        delivery.done();
        if quiet {
            break;
        }
        before += 1;
    }
    assert!(before <= 1, "{before} of the loud tenant went first");
}

#[tokio::test]
async fn an_uncompleted_message_comes_back() {
    let (lanes, clock) = lanes();
    offer(&lanes, message("a", "t", Priority::P2)).await;
    drop(lanes.take(Slot::Any).await.unwrap());
    clock.advance(Duration::from_secs(74));
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P2).await.unwrap(), 0);
    clock.advance(Duration::from_secs(2));
    let again = lanes.take(Slot::Any).await.unwrap();
    again.back(Duration::from_secs(5));
    clock.advance(Duration::from_secs(6));
    lanes.take(Slot::Any).await.unwrap().done();
    assert!(lanes.is_empty());
}

#[tokio::test]
async fn delayed_messages_ripen_and_a_closed_lane_ends_its_takers() {
    let (lanes, clock) = lanes();
    let later = (message("a", "t", Priority::P2), Duration::from_secs(10));
    lanes.enqueue(vec![later]).await.unwrap();
    let taker = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.take(Slot::Any).await.map(Delivery::done).is_some() }
    });
    tokio::task::yield_now().await;
    clock.advance(Duration::from_secs(11));
    assert!(taker.await.unwrap());
    let taker = tokio::spawn({
        let lanes = lanes.clone();
        async move { lanes.take(Slot::OnlyP0).await.is_none() }
    });
    tokio::task::yield_now().await;
    lanes.close();
    assert!(taker.await.unwrap());
}

/// One slot watches what ripens, and the bell may ring at another.
#[tokio::test]
async fn what_ripens_before_the_one_that_is_watched_is_not_slept_through() {
    let (lanes, clock) = lanes();
    let offer_in = async |task: &str, seconds| {
        let message = message("a", task, Priority::P2);
        lanes.enqueue(vec![(message, Duration::from_secs(seconds))]).await.unwrap();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    };
    let (taken, mut seen) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..3 {
        let (lanes, taken) = (lanes.clone(), taken.clone());
        tokio::spawn(async move {
            while let Some(delivery) = lanes.take(Slot::Any).await {
                taken.send(delivery.message.task_id.to_string()).unwrap();
                delivery.done();
            }
        });
    }
    tokio::task::yield_now().await;
    offer_in("late", 900).await;
    for (task, seconds) in [("sooner", 60), ("soonest", 30)] {
        offer_in(task, seconds).await;
    }
    for task in ["soonest", "sooner"] {
        clock.advance(Duration::from_secs(31));
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen.try_recv().as_deref(), Ok(task));
    }
    lanes.close();
}

#[tokio::test]
async fn a_message_that_waits_already_is_not_kept_twice() {
    let (lanes, clock) = lanes();
    for _ in 0..3 {
        offer(&lanes, message("a", "t", Priority::P2)).await;
    }
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P2).await.unwrap(), 1);
    assert_eq!(lanes.duplicates(), 2);
    // Another assignment, and another tenant's task of the same id, are different messages.
    offer(&lanes, LaneMessage { assignment: 2, ..message("a", "t", Priority::P2) }).await;
    offer(&lanes, message("b", "t", Priority::P2)).await;
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P2).await.unwrap(), 3);
    // A taken message may be enqueued again: its task may have to be checked again.
    let held = lanes.take(Slot::Any).await.unwrap();
    lanes.enqueue(vec![(held.message.clone(), Duration::from_secs(60))]).await.unwrap();
    held.done();
    for _ in 0..2 {
        lanes.take(Slot::Any).await.unwrap().done();
    }
    assert!(!lanes.is_empty());
    clock.advance(Duration::from_secs(61));
    lanes.take(Slot::Any).await.unwrap().done();
    assert!(lanes.is_empty());
    assert_eq!(lanes.duplicates(), 2);
}

#[tokio::test]
async fn of_two_delays_the_earlier_one_stays() {
    let (lanes, clock) = lanes();
    let later = |seconds| vec![(message("a", "t", Priority::P2), Duration::from_secs(seconds))];
    for seconds in [100, 50, 200] {
        lanes.enqueue(later(seconds)).await.unwrap();
    }
    clock.advance(Duration::from_secs(49));
    assert!(!taken_now(&lanes).await);
    clock.advance(Duration::from_secs(1));
    assert!(taken_now(&lanes).await);
    clock.advance(Duration::from_secs(200));
    assert!(!taken_now(&lanes).await, "the others were the same");
    // A delayed message gives way to one that is ready.
    lanes.enqueue(later(100)).await.unwrap();
    offer(&lanes, message("a", "t", Priority::P2)).await;
    assert!(taken_now(&lanes).await);
    assert!(lanes.is_empty());
}

/// Takes and completes a message, if there is one.
async fn taken_now(lanes: &Arc<LocalLanes>) -> bool {
    let mut state = lanes.state();
    let now = lanes.clock.monotonic();
    state.ripen(now);
    let taken = lanes.take_ready(&mut state, Slot::Any, now);
    drop(state);
    taken.map(Delivery::done).is_some()
}

/// A day in which waiting tasks are enqueued again, as the sweeper does every 15 minutes.
#[tokio::test]
async fn a_backlog_of_a_day_holds_each_task_once() {
    let (lanes, clock) = lanes();
    let tasks: Vec<_> = (0..1_000).map(|n| message("a", &format!("t{n}"), Priority::P3)).collect();
    for _ in 0..96 {
        let offers = tasks.iter().map(|task| (task.clone(), Duration::ZERO)).collect();
        lanes.enqueue(offers).await.unwrap();
        clock.advance(Duration::from_secs(900));
    }
    assert_eq!(lanes.backlog(Agent::Ops, Priority::P3).await.unwrap(), 1_000);
    assert_eq!(lanes.duplicates(), 95_000);
}
