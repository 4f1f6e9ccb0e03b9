//! A failure of one tenant or item blocks no other, and none of its changes is lost, doubled or
//! reordered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::decide::RunResult;
use watchbill_core::handler::HandlerError;
use watchbill_core::ledger::{Entry, verify};
use watchbill_core::ports::{Bus, BusError, Change, Commit, Entropy as _, Item, Store, WriteId};
use watchbill_core::ports::{Clock as _, Precondition, Write};
use watchbill_core::repo::{Entity, ParkedKey, ParkedTenant, decode, task_key};
use watchbill_domain::{Body, Event, Priority, Task, TaskId, TenantId};
use watchbill_governance::RecordKind;
use watchbill_recorder::Recorder;
use watchbill_testkit::{Failure, FaultyStore, MemoryBus, SeededEntropy};

use crate::world::*;

/// A test environment whose store a test can break.
pub struct Broken {
    pub world: World,
    pub faults: Arc<FaultyStore>,
    seen: u64,
}

pub fn broken(seed: u64) -> Broken {
    let mut faults = None;
    let world = World::over(seed, |store| {
        let faulty = Arc::new(FaultyStore::new(store));
        faults = Some(faulty.clone());
        faulty
    });
    Broken { world, faults: faults.expect("it was made"), seen: 0 }
}

impl Broken {
    /// Records everything written since the last call, in batches; fails if a batch must be
    /// redelivered.
    pub async fn pump(&mut self, recorder: &Recorder, size: usize) {
        let changes = self.world.store.changes(self.seen, usize::MAX);
        self.seen = changes.last().map_or(self.seen, |(seq, _)| *seq);
        let changes: Vec<Change> = changes.into_iter().map(|(_, change)| change).collect();
        for batch in changes.chunks(size) {
            recorder.record(batch).await.expect("nothing holds the feed");
        }
    }

    pub fn seen(&self) -> u64 {
        self.seen
    }

    pub fn saw(&mut self, seq: u64) {
        self.seen = self.seen.max(seq);
    }

    pub fn of_kind(&self, kind: &str) -> Vec<Item> {
        let items = self.world.store.items().into_iter();
        items.filter(|item| &*item.kind == kind).collect()
    }

    pub fn parked(&self) -> Vec<ParkedKey> {
        self.readable::<ParkedKey>().into_iter().filter(ParkedKey::is_open).collect()
    }

    pub fn tenants(&self) -> Vec<ParkedTenant> {
        self.readable::<ParkedTenant>().into_iter().filter(ParkedTenant::is_open).collect()
    }

    fn readable<E: Entity>(&self) -> Vec<E> {
        let items = self.of_kind(E::KIND).into_iter();
        let items = items.filter(|item| !self.faults.is_corrupt(&item.key));
        items.filter_map(|item| Some(decode::<E>(&item).ok()?.value)).collect()
    }

    /// Parked items that could be repaired and are not.
    fn damaged(&self) -> usize {
        let all = [self.of_kind(ParkedKey::KIND), self.of_kind(ParkedTenant::KIND)].concat();
        let damaged = |item: &&Item| {
            !self.faults.is_corrupt(&item.key)
                && decode::<ParkedKey>(item).is_err()
                && decode::<ParkedTenant>(item).is_err()
        };
        all.iter().filter(damaged).count()
    }

    /// Requests replays as the sweeper does.
    pub async fn ask(&self) {
        let now = self.world.clock.now();
        for item in self.of_kind(ParkedTenant::KIND) {
            if item.due.is_none_or(|due| due > now) {
                continue;
            }
            let parking = self.world.core.parking();
            match self.faults.is_corrupt(&item.key) {
                true => parking.ask_past_unreadable(&item.key).await.unwrap(),
                false => parking.ask(&item).await.unwrap(),
            }
        }
    }

    /// Requests replays until nothing is parked.
    pub async fn drain(&mut self, recorder: &Recorder) {
        for _ in 0..200 {
            if self.parked().is_empty() && self.tenants().is_empty() && self.damaged() == 0 {
                return;
            }
            self.world.clock.advance(Duration::from_secs(15 * 60));
            self.ask().await;
            // Each response may be the next request.
            for _ in 0..20 {
                self.pump(recorder, 64).await;
            }
        }
        panic!("still parked: {:?} {:?}", self.tenants(), self.parked());
    }

    pub async fn run(&self, tenant: &TenantId, id: &TaskId, succeeds: bool) {
        let fence = self.world.claim_for(tenant, id).await;
        let ending = match succeeds {
            true => RunResult::Succeeded { result: Body::default() },
            false => RunResult::Failed { error: "no route".into(), retry: None },
        };
        self.world.end_for(tenant, id, fence, ending).await;
    }

    /// Every change of the tenant's tasks is in its ledger once, each task's in order; the hash
    /// chain is valid, and every event was published.
    pub async fn assert_whole(&self, tenant: &TenantId) {
        verify(self.world.store.clone(), tenant).await.unwrap();
        let entries = self.world.entries_of(tenant).await;
        let mut versions: BTreeMap<TaskId, Vec<u64>> = BTreeMap::new();
        for entry in &entries {
            if let Entry::Task(entry) = entry {
                versions.entry(entry.task.clone()).or_default().push(entry.change.version);
            }
        }
        for item in self.of_kind(Task::KIND) {
            let task = decode::<Task>(&item).unwrap().value;
            if task.tenant == *tenant {
                let wanted: Vec<u64> = (1..=item.version).collect();
                assert_eq!(versions.get(&task.id), Some(&wanted), "{tenant} {}", task.id);
            }
        }
        let wanted: BTreeSet<_> =
            entries.iter().flat_map(Entry::events).map(|event| event.event_id).collect();
        let sent = self.world.bus.events().into_iter().filter(|(of, _)| of == tenant);
        let sent: BTreeSet<_> = sent.map(|(_, event)| event.event_id).collect();
        assert_eq!(sent, wanted, "events of {tenant}");
    }
}

pub fn named(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// The events of each task in the order in which they were first published.
pub fn first_sent(events: Vec<(TenantId, Event)>) -> BTreeMap<TaskId, Vec<u64>> {
    let (mut seen, mut order) = (BTreeSet::new(), BTreeMap::<TaskId, Vec<u64>>::new());
    for (_, event) in events {
        if let Some(task) = event.task_id.clone()
            && seen.insert(event.event_id.clone())
            && let Some(version) = event.metadata.get("version").and_then(|v| v.as_u64())
        {
            order.entry(task).or_default().push(version);
        }
    }
    order
}

pub fn assert_in_order(events: Vec<(TenantId, Event)>) {
    for (task, versions) in first_sent(events) {
        assert!(versions.is_sorted(), "events of {task} went out as {versions:?}");
    }
}

#[tokio::test]
async fn a_tenant_whose_ledger_fails_blocks_none_of_a_hundred() {
    let mut broken = broken(1);
    let recorder = broken.world.recorder();
    let bad = named("bad");
    let others: Vec<TenantId> = (0..100).map(|n| named(&format!("t{n:02}"))).collect();
    broken.faults.fail("T#bad#led#", Failure::Down);
    let first = broken.world.create_for(&bad, Priority::P2).await;
    for tenant in others.iter().chain([&bad, &bad]) {
        let id = broken.world.create_for(tenant, Priority::P2).await;
        broken.run(tenant, &id, true).await;
    }
    broken.pump(&recorder, 50).await;
    // More than the header's log can hold, in several calls.
    for _ in 0..12 {
        broken.run(&bad, &first, false).await;
        broken.world.clock.advance(Duration::from_secs(60));
        broken.pump(&recorder, 50).await;
    }
    for tenant in &others {
        broken.assert_whole(tenant).await;
    }
    assert_eq!(broken.parked().len(), 3, "each item of the tenant once");
    let [of] = &broken.tenants()[..] else { panic!("one tenant is due") };
    assert_eq!((of.keys, &of.tenant), (3, &bad));
    assert!(broken.world.entries_of(&bad).await.is_empty());
    // While the failure lasts, requests change nothing and become less frequent.
    let mut waits = Vec::new();
    for _ in 0..12 {
        broken.world.clock.advance(Duration::from_secs(900));
        broken.ask().await;
        broken.pump(&recorder, 50).await;
        let now = broken.world.clock.now();
        waits.push(broken.tenants()[0].next.since(now).as_secs());
    }
    assert!(waits.is_sorted() && waits[0] < 60 && waits[11] > 600, "{waits:?}");

    broken.faults.heal();
    broken.drain(&recorder).await;
    broken.assert_whole(&bad).await;
    assert_in_order(broken.world.bus.events());
    let summary = broken.world.core.parking().summary().await.unwrap();
    assert_eq!(summary, Default::default());
}

/// Failures come and go, recorders die, the feed repeats itself.
#[tokio::test]
async fn whatever_comes_between_each_change_is_recorded_once_and_in_order() {
    for seed in 0..30 {
        let mut broken = broken(seed);
        let dice = SeededEntropy::new(seed + 1_000);
        let any = |below: usize| (dice.next_u64() % below as u64) as usize;
        let tenants = [named("good"), named("bad")];
        let mut recorder = broken.world.recorder();
        let mut open: Vec<(TenantId, TaskId)> = Vec::new();
        for _ in 0..60 {
            match any(10) {
                0 => broken.faults.fail("T#bad#led#", Failure::Down),
                1 => broken.faults.fail("T#bad#led#", Failure::Panic),
                2 | 3 => broken.faults.heal(),
                4 => recorder = broken.world.recorder(),
                5 => {
                    let back = any(30) as u64;
                    broken.seen = broken.seen.saturating_sub(back);
                }
                6 => broken.ask().await,
                7 => broken.world.bus.refuse_next(any(12)),
                _ => {}
            }
            let tenant = &tenants[any(2)];
            if open.len() < 4 || any(3) == 0 {
                let id = broken.world.create_for(tenant, Priority::P2).await;
                open.push((tenant.clone(), id));
            } else {
                let (tenant, id) = open[any(open.len())].clone();
                let done = any(8) == 0;
                broken.run(&tenant, &id, done).await;
                open.retain(|(_, other)| !done || *other != id);
            }
            broken.world.clock.advance(Duration::from_secs(any(40) as u64));
            if any(3) > 0 {
                broken.pump(&recorder, 1 + any(9)).await;
            }
        }
        broken.faults.heal();
        broken.world.bus.refuse_next(0);
        broken.pump(&recorder, 10).await;
        broken.drain(&recorder).await;
        for tenant in &tenants {
            broken.assert_whole(tenant).await;
        }
        assert_in_order(broken.world.bus.events());
    }
}

/// A failure of one item concerns that item alone: other items of its tenant continue.
#[tokio::test]
async fn an_item_whose_recording_panics_parks_alone() {
    let mut broken = broken(2);
    let recorder = broken.world.recorder();
    let (good, poison) =
        (broken.world.create(Priority::P2).await, broken.world.create(Priority::P2).await);
    // So many that its log has to be read from its own partition.
    for _ in 0..12 {
        broken.run(&tenant(), &poison, false).await;
    }
    let partition = format!("T#default#task#{poison}");
    broken.faults.fail(&partition, Failure::Panic);
    broken.pump(&recorder, 100).await;
    assert_eq!(broken.parked().len(), 1);
    assert_eq!(&*broken.parked()[0].partition, partition);
    let tasks = |entries: Vec<Entry>| -> BTreeSet<TaskId> {
        let task = |entry: &Entry| match entry {
            Entry::Task(entry) => Some(entry.task.clone()),
            _ => None,
        };
        entries.iter().filter_map(task).collect()
    };
    assert_eq!(tasks(broken.world.entries().await), BTreeSet::from([good.clone()]));

    // Its later changes join it; those of the others are recorded at once.
    broken.faults.heal();
    broken.run(&tenant(), &poison, false).await;
    broken.run(&tenant(), &good, true).await;
    broken.pump(&recorder, 100).await;
    assert_eq!(tasks(broken.world.entries().await), BTreeSet::from([good]));
    // A new recorder does not reorder them either.
    broken.run(&tenant(), &poison, true).await;
    let recorder = broken.world.recorder();
    broken.pump(&recorder, 100).await;
    assert_eq!(broken.parked().len(), 1);
    broken.drain(&recorder).await;
    broken.assert_whole(&tenant()).await;
    assert_in_order(broken.world.bus.events());
}

/// A bus that refuses the events of some tasks.
pub struct Picky {
    bus: Arc<MemoryBus>,
    pub refused: Mutex<BTreeSet<TaskId>>,
    panics: bool,
    /// The bus is down for this tenant.
    down: Mutex<Option<TenantId>>,
}

#[async_trait]
impl Bus for Picky {
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let refused = self.refused.lock().unwrap().clone();
        let poison = |event: &Event| event.task_id.as_ref().is_some_and(|id| refused.contains(id));
        if self.down.lock().unwrap().as_ref() == Some(tenant) {
            return Err(BusError::Down { reason: "on purpose".into() });
        }
        if events.iter().any(poison) {
            assert!(!self.panics, "the subscriber breaks off on purpose");
            let (sent, reason) = (events.len(), "on purpose".into());
            return Err(BusError::Partial { sent, failed: 1, reason });
        }
        self.bus.publish(tenant, events).await
    }
}

pub fn picky(world: &World, panics: bool) -> (Arc<Picky>, Recorder) {
    let bus = Arc::new(Picky {
        bus: world.bus.clone(),
        refused: Mutex::default(),
        panics,
        down: Mutex::default(),
    });
    (bus.clone(), Recorder::new(world.core.clone(), bus))
}

/// An event that is never accepted blocks neither the ledger nor other tasks' events; those of
/// its own task wait behind it.
#[tokio::test]
async fn events_never_accepted_block_no_others() {
    for panics in [false, true] {
        let mut broken = broken(3);
        let (bus, recorder) = picky(&broken.world, panics);
        let (good, poison) =
            (broken.world.create(Priority::P2).await, broken.world.create(Priority::P2).await);
        bus.refused.lock().unwrap().insert(poison.clone());
        broken.pump(&recorder, 1).await;
        for round in 0..6 {
            broken.run(&tenant(), &good, false).await;
            broken.run(&tenant(), &poison, false).await;
            broken.world.clock.advance(Duration::from_secs(70));
            broken.pump(&recorder, if round % 2 == 0 { 1 } else { 100 }).await;
        }
        let sent = first_sent(broken.world.bus.events());
        let recorded = |entries: &[Entry], id: &TaskId| {
            let of = |entry: &&Entry| matches!(entry, Entry::Task(entry) if entry.task == *id);
            entries.iter().filter(of).count()
        };
        let entries = broken.world.entries().await;
        assert_eq!(recorded(&entries, &good), 13, "recording goes on");
        assert_eq!(recorded(&entries, &poison), 13, "of what is not sent too");
        assert_eq!(sent.get(&poison), None);
        assert_eq!(sent[&good].last(), Some(&13), "what others wait for goes out");
        assert_eq!(broken.parked().len(), 1, "{:?}", broken.parked());
        assert_eq!(broken.parked()[0].first, None, "nothing of it is to be recorded");

        bus.refused.lock().unwrap().clear();
        broken.drain(&recorder).await;
        broken.assert_whole(&tenant()).await;
        assert_in_order(broken.world.bus.events());
    }
}

/// A bus that is down is waited for: the ledger is the outbox, and nothing is parked by item.
#[tokio::test]
async fn a_bus_that_is_down_for_a_tenant_holds_up_no_recording_and_no_other() {
    let mut broken = broken(4);
    let (bus, mut recorder) = picky(&broken.world, false);
    let (good, bad) = (named("good"), named("bad"));
    *bus.down.lock().unwrap() = Some(bad.clone());
    for round in 0..8 {
        for tenant in [&good, &bad] {
            let id = broken.world.create_for(tenant, Priority::P2).await;
            broken.run(tenant, &id, true).await;
        }
        broken.world.clock.advance(Duration::from_secs(20));
        broken.pump(&recorder, 3).await;
        if round == 5 {
            // A new process has no cached state.
            recorder = Recorder::new(broken.world.core.clone(), bus.clone());
            catch_up(&recorder).await;
        }
    }
    broken.assert_whole(&good).await;
    assert_eq!(broken.parked(), []);
    let [of] = &broken.tenants()[..] else { panic!("one tenant is due") };
    assert!(of.unpublished && of.tenant == bad);
    verify(broken.world.store.clone(), &bad).await.unwrap();
    assert!(!broken.world.entries_of(&bad).await.is_empty());
    // Nothing else happens for the tenant: the request alone publishes it.
    *bus.down.lock().unwrap() = None;
    broken.drain(&recorder).await;
    broken.assert_whole(&bad).await;
    assert_in_order(broken.world.bus.events());
}

/// An item that is deleted before it is recorded is reported as lost.
#[tokio::test]
async fn an_item_deleted_while_parked_is_reported_as_lost() {
    let mut broken = broken(5);
    let recorder = broken.world.recorder();
    broken.faults.fail("T#default#led#", Failure::Down);
    let gone = broken.world.create(Priority::P2).await;
    broken.pump(&recorder, 10).await;
    let (key, expect) = (task_key(&tenant(), &gone), Precondition::Version(1));
    let commit = Commit { id: WriteId(9), writes: vec![Write::Delete { key, expect }] };
    broken.world.store.commit(commit).await.unwrap();
    broken.faults.heal();
    broken.drain(&recorder).await;
    broken.pump(&recorder, 10).await;
    let lost = |entry: &Entry| match entry {
        Entry::AuditRecord(record) => {
            record.kind == RecordKind::ChangesLost && record.subject.contains(gone.as_str())
        }
        _ => false,
    };
    assert_eq!(broken.world.entries().await.iter().filter(|entry| lost(entry)).count(), 1);
}

/// Only a change that can't be parked blocks the feed.
#[tokio::test]
async fn what_can_not_be_parked_is_redelivered() {
    let mut broken = broken(6);
    let recorder = broken.world.recorder();
    let id = broken.world.create(Priority::P2).await;
    let changes = broken.world.changes();
    for partitions in [&["T#default#"][..], &["T#default#led#", "T#default#park#"]] {
        partitions.iter().for_each(|of| broken.faults.fail(of, Failure::Down));
        for again in [&recorder, &broken.world.recorder()] {
            let answer = again.record(&changes).await;
            assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
        }
        broken.faults.heal();
    }
    broken.world.clock.advance(Duration::from_secs(3_600));
    broken.run(&tenant(), &id, true).await;
    broken.pump(&recorder, 10).await;
    broken.drain(&recorder).await;
    broken.assert_whole(&tenant()).await;
}

/// However much a tenant has parked, only one item of it is due.
#[tokio::test]
async fn a_tenant_that_stays_broken_is_one_due_item() {
    let mut broken = broken(7);
    let recorder = broken.world.recorder();
    broken.faults.fail("T#default#led#", Failure::Down);
    for _ in 0..300 {
        broken.world.create(Priority::P2).await;
    }
    broken.pump(&recorder, 128).await;
    let due = |item: &&Item| item.due.is_some() && &*item.kind != Task::KIND;
    assert_eq!(broken.world.store.items().iter().filter(due).count(), 1);
    assert_eq!((broken.parked().len(), broken.tenants()[0].keys), (300, 300));
    let summary = broken.world.core.parking().summary().await.unwrap();
    assert_eq!((summary.items, summary.tenants), (300, 1));
    // Once healed, one request is enough: the recorder continues by itself, some items at a
    // time.
    broken.faults.heal();
    broken.world.clock.advance(Duration::from_secs(3_600));
    broken.ask().await;
    for _ in 0..20 {
        broken.pump(&recorder, 64).await;
    }
    assert_eq!((broken.parked(), broken.tenants()), (vec![], vec![]));
    broken.assert_whole(&tenant()).await;
}
