//! What is published and when: past events that are never accepted, within a call's time, and
//! with a store that fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, BusError, Change, Clock as _, Store as _};
use watchbill_core::service::ToPark;
use watchbill_domain::{Event, EventType, Priority, TenantId};
use watchbill_recorder::Recorder;
use watchbill_testkit::{Failure, FakeClock};

use crate::parked::{Broken, broken, named};
use crate::world::*;

/// A bus that wants events of one type, as intake does.
struct Narrow {
    clock: Arc<FakeClock>,
    taken: Mutex<BTreeMap<String, usize>>,
    /// Ids that it never accepts.
    refused: Mutex<Vec<String>>,
    down: Mutex<bool>,
    /// How long one call takes.
    takes: Duration,
    /// After this many calls it hangs.
    hangs_after: Mutex<usize>,
}

#[async_trait]
impl Bus for Narrow {
    fn wants(&self, _: &TenantId, event_type: &EventType) -> bool {
        event_type.as_str() == "deploy.failed"
    }

    async fn publish(&self, _: &TenantId, events: &[Event]) -> Result<(), BusError> {
        if *self.down.lock().unwrap() {
            return Err(BusError::Down { reason: "on purpose".into() });
        }
        self.clock.advance(self.takes);
        let left = {
            let mut left = self.hangs_after.lock().unwrap();
            *left = left.saturating_sub(1);
            *left
        };
        if left == 0 {
            std::future::pending::<()>().await;
        }
        let refused = self.refused.lock().unwrap().clone();
        let (sent, mut failed) = (events.len(), 0);
        for event in events {
            let id = event.event_id.to_string();
            match refused.contains(&id) {
                true => failed += 1,
                false => *self.taken.lock().unwrap().entry(id).or_default() += 1,
            }
        }
        match failed {
            0 => Ok(()),
            _ => Err(BusError::Partial { sent, failed, reason: "on purpose".into() }),
        }
    }
}

impl Narrow {
    fn took(&self, n: u64) -> usize {
        self.taken.lock().unwrap().get(&format!("e-{n}")).copied().unwrap_or_default()
    }

    fn refuse(&self, ids: impl IntoIterator<Item = u64>) {
        *self.refused.lock().unwrap() = ids.into_iter().map(|n| format!("e-{n}")).collect();
    }
}

fn narrow(world: &World, takes: Duration) -> (Arc<Narrow>, Recorder) {
    let bus = Arc::new(Narrow {
        clock: world.clock.clone(),
        taken: Mutex::default(),
        refused: Mutex::default(),
        down: Mutex::new(false),
        takes,
        hangs_after: Mutex::new(usize::MAX),
    });
    (bus.clone(), Recorder::new(world.core.clone(), bus))
}

impl Broken {
    /// Batches without wanted events.
    async fn uninteresting(&mut self, recorder: &Recorder, batches: usize) {
        for _ in 0..batches {
            self.world.create(Priority::P2).await;
            self.pump(recorder, 1).await;
        }
    }

    async fn publish(&mut self, recorder: &Recorder, n: u64) {
        self.world.publish(n).await;
        self.pump(recorder, 1).await;
    }

    /// Lets time pass and requests replays as the sweeper does.
    async fn pass(&mut self, recorder: &Recorder, times: usize) {
        for _ in 0..times {
            self.world.clock.advance(Duration::from_secs(70));
            self.ask().await;
            self.pump(recorder, 8).await;
        }
    }
}

#[tokio::test]
async fn an_event_never_accepted_blocks_no_others_where_few_are_wanted() {
    let mut broken = broken(1);
    let (bus, recorder) = narrow(&broken.world, Duration::ZERO);
    bus.refuse([1]);
    broken.publish(&recorder, 1).await;
    broken.uninteresting(&recorder, 12).await;
    broken.publish(&recorder, 2).await;
    broken.pass(&recorder, 2).await;
    assert_eq!(bus.took(2), 1, "it goes out at the next try");
    assert_eq!(broken.parked().len(), 1, "the other is kept by name");
    bus.refuse([]);
    broken.drain(&recorder).await;
    assert_eq!((bus.took(1), bus.took(2)), (1, 1));
}

/// More of them than one attempt skips, and more than it processes.
#[tokio::test]
async fn many_never_accepted_block_others_for_some_attempts_only() {
    let mut broken = broken(2);
    let (bus, recorder) = narrow(&broken.world, Duration::ZERO);
    bus.refuse(1..=9);
    for n in 1..=9 {
        broken.publish(&recorder, n).await;
    }
    broken.uninteresting(&recorder, 80).await;
    broken.publish(&recorder, 10).await;
    broken.pass(&recorder, 60).await;
    assert_eq!(bus.took(10), 1);
    assert_eq!(broken.parked().len(), 9);
    assert!(broken.tenants()[0].keys == 9 && !broken.tenants()[0].unpublished);
    bus.refuse([]);
    broken.drain(&recorder).await;
    assert!((1..=10).all(|n| bus.took(n) == 1), "{:?}", bus.taken);
}

/// An unreachable bus is no reason to park events, however long it lasts.
#[tokio::test]
async fn an_unreachable_bus_parks_no_items() {
    let mut broken = broken(3);
    let (bus, recorder) = narrow(&broken.world, Duration::ZERO);
    *bus.down.lock().unwrap() = true;
    for n in 1..=3 {
        broken.publish(&recorder, n).await;
        broken.uninteresting(&recorder, 1).await;
    }
    broken.pass(&recorder, 60).await;
    assert_eq!(broken.parked(), []);
    *bus.down.lock().unwrap() = false;
    broken.drain(&recorder).await;
    assert!((1..=3).all(|n| bus.took(n) == 1));
}

/// On a platform that kills a call after its time limit, a call that always exceeds it would
/// restart at the same position for ever.
#[tokio::test]
async fn a_backlog_goes_out_within_the_time_that_calls_have() {
    let mut broken = broken(4);
    let (bus, recorder) = narrow(&broken.world, Duration::from_secs(1));
    *bus.down.lock().unwrap() = true;
    for n in 1..=40 {
        broken.publish(&recorder, n).await;
    }
    *bus.down.lock().unwrap() = false;
    let clock = broken.world.clock.clone();
    for _ in 0..12 {
        // Another instance each time.
        let recorder = Recorder::new(broken.world.core.clone(), bus.clone());
        clock.advance(Duration::from_secs(900));
        broken.ask().await;
        let changes = broken.world.store.changes(broken.seen(), usize::MAX);
        broken.saw(changes.last().map_or(0, |(seq, _)| *seq));
        let changes: Vec<Change> = changes.into_iter().map(|(_, change)| change).collect();
        let begun = clock.monotonic();
        recorder.record_invocation(&changes, Duration::from_secs(14)).await.unwrap();
        let took = clock.monotonic() - begun;
        assert!(took <= Duration::from_secs(12), "{took:?}");
    }
    assert_eq!((1..=40).map(|n| bus.took(n)).collect::<Vec<_>>(), [1; 40]);
}

#[tokio::test]
async fn a_call_that_is_ended_begins_again_near_where_it_was() {
    let mut broken = broken(5);
    let (bus, recorder) = narrow(&broken.world, Duration::ZERO);
    *bus.down.lock().unwrap() = true;
    for n in 1..=60 {
        broken.publish(&recorder, n).await;
    }
    *bus.down.lock().unwrap() = false;
    let mut calls = 0;
    while bus.took(60) == 0 {
        calls += 1;
        assert!(calls < 10, "it begins at the same place: {:?}", bus.taken);
        *bus.hangs_after.lock().unwrap() = 20;
        let recorder = Recorder::new(broken.world.core.clone(), bus.clone());
        tokio::select! {
            biased;
            done = recorder.catch_up(None) => drop(done.unwrap()),
            // It hangs and is killed.
            () = std::future::ready(()) => {}
        }
    }
    assert!((1..=60).all(|n| (1..=3).contains(&bus.took(n))), "{:?}", bus.taken);
}

/// No tenant is at fault: nothing is parked, and nothing waits once the race is over.
#[tokio::test]
async fn races_that_are_lost_again_and_again_are_no_fault() {
    let mut broken = broken(6);
    let recorder = broken.world.recorder();
    let (busy, other) = (named("busy"), named("other"));
    broken.world.create_for(&busy, Priority::P2).await;
    broken.world.create_for(&other, Priority::P2).await;
    let changes = broken.world.changes();
    broken.faults.fail("T#busy#led#", Failure::Contended);
    for _ in 0..3 {
        let answer = recorder.record(&changes).await;
        assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
        broken.assert_whole(&other).await;
    }
    assert_eq!((broken.parked(), broken.tenants()), (vec![], vec![]));
    broken.faults.heal();
    broken.pump(&recorder, 10).await;
    assert_eq!((broken.parked(), broken.tenants()), (vec![], vec![]), "recorded at once");
    broken.assert_whole(&busy).await;
}

/// A store that is down for all is no tenant's fault: once it is back, no tenant is quarantined.
#[tokio::test]
async fn after_an_outage_every_tenant_is_recorded_at_once() {
    let mut broken = broken(7);
    let recorder = broken.world.recorder();
    let tenants = [named("a"), named("b"), named("c")];
    for tenant in &tenants {
        broken.world.create_for(tenant, Priority::P2).await;
    }
    let changes = broken.world.changes();
    broken.faults.fail("T#", Failure::Down);
    for _ in 0..8 {
        for change in &changes {
            let answer = recorder.record(std::slice::from_ref(change)).await;
            assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
        }
    }
    broken.faults.heal();
    broken.pump(&recorder, 10).await;
    assert_eq!((broken.parked(), broken.tenants()), (vec![], vec![]));
    for tenant in &tenants {
        broken.assert_whole(tenant).await;
    }
}

/// A failure to save one tenant's projections does not affect others.
#[tokio::test]
async fn each_tenants_projections_are_saved_whatever_happens_to_others() {
    let mut broken = broken(8);
    let recorder = broken.world.recorder();
    let tenants = [named("a"), named("b"), named("c")];
    for _ in 0..2 {
        for tenant in &tenants {
            broken.world.create_for(tenant, Priority::P2).await;
        }
        broken.pump(&recorder, 10).await;
    }
    broken.faults.fail("T#a#fold#", Failure::Down);
    recorder.save().await.unwrap_err();
    for tenant in &tenants[1..] {
        let key = watchbill_core::repo::fold_key(tenant, watchbill_core::repo::STATS_FOLD);
        let item = broken.world.store.get(&key).await.unwrap().unwrap();
        let kept = watchbill_core::repo::decode::<watchbill_core::repo::Projection>(&item).unwrap();
        assert_eq!(kept.value.seq_applied, 2, "of {tenant}");
    }
}

/// Concurrent processes park too: each pauses for a random time.
#[tokio::test]
async fn parking_that_meets_others_pauses() {
    let broken = broken(9);
    broken.faults.fail("T#default#park", Failure::Contended);
    let parking = broken.world.core.parking();
    let begun = broken.world.clock.monotonic();
    let some =
        ToPark { partition: "T#default#task#a".into(), first: Some(1), last: 1, unsent: None };
    parking.park(&tenant(), &[some], "on purpose").await.unwrap_err();
    let parked = broken.world.clock.monotonic();
    parking.hold_events(&tenant(), "on purpose").await.unwrap_err();
    let held = broken.world.clock.monotonic();
    for took in [parked - begun, held - parked] {
        assert!((300..2_000).contains(&took.as_millis()), "{took:?}");
    }
}
