//! Simulates how P0 and the others share the slots' time over each minute.

use std::collections::BTreeMap;

use super::tests::{lanes, message, offer};
use super::*;

/// A run in the simulation.
struct Running {
    until: Duration,
    delivery: Delivery,
}

/// How long each class used the slots, by second.
#[derive(Default)]
struct Usage {
    p0: BTreeMap<u64, Duration>,
    others: BTreeMap<u64, Duration>,
}

impl Usage {
    fn add(&mut self, priority: Priority, from: Duration, until: Duration) {
        let class = if priority == Priority::P0 { &mut self.p0 } else { &mut self.others };
        let mut at = from;
        while at < until {
            let end = Duration::from_secs(at.as_secs() + 1).min(until);
            *class.entry(at.as_secs()).or_default() += end - at;
            at = end;
        }
    }

    /// P0's percentage of the minute that begins at this second.
    fn percent(&self, second: u64) -> f64 {
        let sum = |class: &BTreeMap<u64, Duration>| {
            class.range(second..second + 60).map(|(_, time)| time.as_secs_f64()).sum::<f64>()
        };
        let (p0, others) = (sum(&self.p0), sum(&self.others));
        100.0 * p0 / (p0 + others)
    }
}

/// Runs waiting messages on this many slots for a while. `p0_ms`, `other_ms`: how long a run
/// takes.
async fn simulate(
    slots: usize,
    seconds: u64,
    p0_ms: u64,
    other_ms: u64,
) -> (Usage, BTreeMap<Priority, u64>) {
    let (lanes, clock) = lanes();
    let mut next = 0;
    let mut usage = Usage::default();
    let mut starts = BTreeMap::new();
    let mut running: Vec<Running> = Vec::new();
    let begin = lanes.clock.monotonic();
    let now = || lanes.clock.monotonic() - begin;
    while now() < Duration::from_secs(seconds) {
        while running.len() < slots {
            // Both classes always have work.
            for priority in [Priority::P0, Priority::P3] {
                next += 1;
                offer(&lanes, message("a", &format!("t{next}"), priority)).await;
            }
            let delivery = lanes.take(Slot::Any).await.unwrap();
            let priority = delivery.message.priority;
            *starts.entry(priority).or_default() += 1;
            let ms = if priority == Priority::P0 { p0_ms } else { other_ms };
            let until = now() + Duration::from_millis(ms);
            usage.add(priority, now(), until);
            running.push(Running { until, delivery });
        }
        let end = running.iter().map(|run| run.until).min().unwrap();
        clock.advance(end - now());
        for place in (0..running.len()).rev() {
            if running[place].until <= end {
                running.swap_remove(place).delivery.done();
            }
        }
    }
    (usage, starts)
}

/// Whatever the tasks' durations and the number of slots, P0 gets close to its 80 %, and no
/// more.
#[tokio::test]
async fn p0_has_four_fifths_of_the_slots_while_others_wait() {
    for (slots, p0_ms, other_ms) in [
        (32, 1_000, 1_000),
        (32, 100, 5_000),
        (32, 5_000, 100),
        (4, 1_000, 1_000),
        (1, 500, 500),
        (1, 100, 2_000),
    ] {
        let (usage, starts) = simulate(slots, 300, p0_ms, other_ms).await;
        assert!(starts[&Priority::P3] > 0, "P3 starves beside {slots} slots");
        for second in 0..240 {
            let percent = usage.percent(second);
            // One run more or less of each class on the slots.
            let longest = p0_ms.max(other_ms) as f64 / 1_000.0;
            let margin = 3.0 + 200.0 * longest / 60.0 / slots as f64;
            assert!(
                (80.0 - margin..=80.0 + margin).contains(&percent),
                "{percent:.1} % of the minute from {second} s, {slots} slots, {p0_ms}/{other_ms} ms"
            );
        }
    }
}

/// Runs of a minute on all slots: starts at the same moment are shared out at that moment.
#[tokio::test]
async fn long_runs_that_begin_at_once_leave_slots_to_the_others() {
    let (usage, _) = simulate(32, 300, 60_000, 60_000).await;
    for second in (0..240).step_by(60) {
        let percent = usage.percent(second);
        assert!((70.0..=85.0).contains(&percent), "{percent:.1} % from {second} s");
    }
}

#[tokio::test]
async fn p0_has_all_slots_while_no_one_else_waits_without_arrears() {
    let (lanes, clock) = lanes();
    for n in 0..1_000 {
        offer(&lanes, message("a", &format!("u{n}"), Priority::P0)).await;
        let delivery = lanes.take(Slot::Any).await.unwrap();
        clock.advance(Duration::from_millis(100));
        delivery.done();
    }
    // Now the others come: they get their fifth from here on, and no arrears.
    for n in 0..100 {
        offer(&lanes, message("a", &format!("v{n}"), Priority::P0)).await;
        offer(&lanes, message("a", &format!("w{n}"), Priority::P3)).await;
    }
    let mut order = Vec::new();
    for _ in 0..20 {
        let delivery = lanes.take(Slot::Any).await.unwrap();
        order.push(delivery.message.priority);
        clock.advance(Duration::from_millis(100));
        delivery.done();
    }
    assert_eq!(order[0], Priority::P0);
    let low = order.iter().filter(|priority| **priority == Priority::P3).count();
    assert!((3..=5).contains(&low), "{order:?}");
}

#[tokio::test]
async fn p0_gets_more_than_its_share_while_no_one_else_waits() {
    let (lanes, _) = lanes();
    for n in 0..10 {
        offer(&lanes, message("a", &format!("u{n}"), Priority::P0)).await;
    }
    offer(&lanes, message("a", "low", Priority::P3)).await;
    let mut taken = Vec::new();
    for _ in 0..11 {
        taken.push(lanes.take(Slot::Any).await.unwrap());
    }
    let low = taken.iter().position(|d| d.message.priority == Priority::P3).unwrap();
    assert!((1..=5).contains(&low), "P3 was number {low}");
}

#[tokio::test]
async fn the_slot_kept_for_p0_is_not_counted() {
    let (lanes, clock) = lanes();
    for n in 0..10 {
        offer(&lanes, message("a", &format!("u{n}"), Priority::P0)).await;
        offer(&lanes, message("a", &format!("w{n}"), Priority::P3)).await;
    }
    for _ in 0..5 {
        let kept = lanes.take(Slot::OnlyP0).await.unwrap();
        clock.advance(Duration::from_secs(2));
        kept.done();
    }
    let first = lanes.take(Slot::Any).await.unwrap();
    assert_eq!(first.message.priority, Priority::P0);
}

#[tokio::test]
async fn tenants_take_turns_within_p0() {
    let (lanes, _) = lanes();
    for n in 0..100 {
        offer(&lanes, message("loud", &format!("l{n}"), Priority::P0)).await;
    }
    offer(&lanes, message("quiet", "q", Priority::P0)).await;
    offer(&lanes, message("quiet", "low", Priority::P3)).await;
    let mut before = 0;
    loop {
        let delivery = lanes.take(Slot::Any).await.unwrap();
        let message = delivery.message.clone();
        delivery.done();
        if message.tenant.as_str() == "quiet" && message.priority == Priority::P0 {
            break;
        }
        before += u32::from(message.priority == Priority::P0);
    }
    assert!(before <= 1, "{before} of the loud tenant went first");
}
