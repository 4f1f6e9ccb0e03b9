//! What the sweeper records of the policy and of the ledgers, with two sweepers at once and a
//! store that loses answers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, json};
use watchbill_core::decide::Rules;
use watchbill_core::domain::{Event, EventId, EventPriority, EventType, TenantId, Timestamp};
use watchbill_core::govern::{Policies, Policy, PolicyUnavailable, Record, RecordKind};
use watchbill_core::ledger::{Batch, Entry, LedgerReader};
use watchbill_core::ports::{Clock as _, Commit, Expect, Store as _, Write, WriteId};
use watchbill_core::repo::{Entity as _, Fold, decode, encode};
use watchbill_core::service::{Core, Governance, OnFailure, Ports, STATS_FOLD};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{
    FakeClock, FlakyStore, MemoryBlobs, MemoryLanes, MemoryStore, MemoryWake, SeededEntropy,
};

/// A policy that changes, or can't be read.
#[derive(Default)]
struct Changing(Mutex<Option<&'static str>>);

impl Changing {
    fn set(&self, fingerprint: Option<&'static str>) {
        *self.0.lock().unwrap() = fingerprint;
    }
}

#[async_trait]
impl Policies for Changing {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        match *self.0.lock().unwrap() {
            Some(fingerprint) => {
                let fingerprint = fingerprint.to_owned();
                Ok(Arc::new(Policy { fingerprint, ..Policy::default() }))
            }
            None => Err(PolicyUnavailable("the file is gone".into())),
        }
    }
}

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    policies: Arc<Changing>,
    core: Core,
    writes: u128,
}

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

impl World {
    /// Two tenants, each with a batch in its ledger.
    async fn new(seed: u64) -> Self {
        let store = Arc::new(MemoryStore::new());
        let noon = Timestamp::parse("2026-01-31T12:00:00Z").unwrap();
        let clock = Arc::new(FakeClock::auto(noon));
        let ports = Ports {
            store: Arc::new(FlakyStore::new(store.clone(), seed, 20)),
            blobs: Arc::new(MemoryBlobs::new()),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            wake: Arc::new(MemoryWake::new()),
        };
        let policies = Arc::new(Changing::default());
        let governance = Governance::new(policies.clone(), OnFailure::Restrict);
        let core = Core::new(ports, Arc::new(Rules::default()), 1).governed_by(governance);
        let mut world = Self { store, clock, policies, core, writes: 0 };
        for tenant in [TenantId::default(), acme()] {
            let name = STATS_FOLD.to_owned();
            let fold = Fold { tenant: tenant.clone(), name, seq_applied: 0, state: json!({}) };
            let item = encode(&fold, None);
            world.put(Write::Put { item, expect: Expect::Absent }).await;
            world.grow(&tenant).await;
        }
        world
    }

    async fn put(&mut self, write: Write) {
        self.writes += 1;
        let id = WriteId(self.writes);
        self.store.commit(Commit { id, writes: vec![write] }).await.unwrap();
    }

    /// Something happens and is recorded.
    async fn grow(&mut self, tenant: &TenantId) {
        let event = Event {
            event_id: EventId::parse(&format!("e-{}", self.writes)).unwrap(),
            event_type: EventType::parse("deploy.failed").unwrap(),
            priority: EventPriority::High,
            source_agent: "ci".into(),
            trace_id: "trace".into(),
            task_id: None,
            payload: Map::new(),
            timestamp: self.clock.now(),
            metadata: Map::new(),
            hops: 0,
        };
        self.append(tenant, vec![Entry::Published(event)]).await;
    }

    async fn append(&mut self, tenant: &TenantId, entries: Vec<Entry>) {
        let head = LedgerReader::new(self.store.clone(), tenant.clone()).head().await.unwrap();
        let (_, item) =
            Batch::new(tenant.clone(), head.seq + 1, self.clock.now(), head.hash, 0, entries);
        self.put(Write::Put { item, expect: Expect::Absent }).await;
    }

    fn records(&self, kind: RecordKind) -> Vec<Record> {
        let items = self.store.items();
        let records = items.iter().filter(|item| *item.kind == *Record::KIND);
        let records = records.map(|item| decode::<Record>(item).unwrap().value);
        let mut records: Vec<_> = records.filter(|record| record.kind == kind).collect();
        records.sort_by_key(|record| record.at);
        for record in &records {
            assert_eq!(&record.clone().clean(), record, "redaction leaves hashes as they are");
        }
        records
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.core.clone(), Arc::new(MemoryLanes::new()))
    }

    /// Two processes at once, as often as it takes a flaky store to let both through.
    async fn sweep_twice(&self) {
        let (one, other) = (self.sweeper(), self.sweeper());
        for _ in 0..20 {
            let (one, other) = tokio::join!(one.sweep(100), other.sweep(100));
            let failed = |swept: &Result<watchbill_sweeper::Swept, _>| {
                swept.as_ref().map_or(1, |swept| swept.failed)
            };
            if failed(&one) + failed(&other) == 0 {
                return;
            }
        }
        panic!("the sweeps go on failing");
    }
}

#[tokio::test]
async fn another_policy_is_recorded_once_for_each_tenant() {
    for seed in 0..24 {
        let world = World::new(seed).await;
        // To and fro: each change counts, also one that was made before.
        let steps = ["one", "two", "one", "two"];
        for (n, fingerprint) in steps.into_iter().enumerate() {
            world.policies.set(Some(fingerprint));
            world.sweep_twice().await;
            world.sweep_twice().await;
            let records = world.records(RecordKind::PolicyChanged);
            assert_eq!(records.len(), 2 * (n + 1), "after {fingerprint}, seed {seed}");
            world.clock.advance(Duration::from_secs(1));
        }
        let records = world.records(RecordKind::PolicyChanged);
        for tenant in [TenantId::default(), acme()] {
            let of = records.iter().filter(|record| record.tenant == tenant);
            let said: Vec<_> = of.map(|record| record.details["policy"].clone()).collect();
            assert_eq!(said, steps);
        }
        assert_eq!(records[0].details["before"], json!(null));
        assert_eq!(records[7].details["before"], json!("one"));
    }
}

#[tokio::test]
async fn a_policy_that_can_not_be_read_is_no_other_policy() {
    let world = World::new(1).await;
    world.policies.set(Some("one"));
    world.sweep_twice().await;
    world.policies.set(None);
    world.sweep_twice().await;
    world.policies.set(Some("one"));
    world.sweep_twice().await;
    assert_eq!(world.records(RecordKind::PolicyChanged).len(), 2, "one for each tenant");
}

#[tokio::test]
async fn the_policy_is_looked_at_every_thirty_seconds_at_most() {
    let world = World::new(1).await;
    world.policies.set(Some("one"));
    let sweeper = world.sweeper();
    while sweeper.sweep(100).await.map_or(1, |swept| swept.failed) > 0 {}
    world.policies.set(Some("two"));
    for (seconds, changes) in [(29, 2), (1, 4)] {
        world.clock.advance(Duration::from_secs(seconds));
        while sweeper.sweep(100).await.map_or(1, |swept| swept.failed) > 0 {}
        assert_eq!(world.records(RecordKind::PolicyChanged).len(), changes);
    }
}

#[tokio::test]
async fn a_ledger_that_grew_is_sealed_once_a_day() {
    for seed in 0..24 {
        let mut world = World::new(seed).await;
        world.sweep_twice().await;
        world.sweep_twice().await;
        let sealed = world.records(RecordKind::Sealed);
        assert_eq!(sealed.len(), 2, "one for each tenant, seed {seed}");
        for seal in &sealed {
            let ledger = LedgerReader::new(world.store.clone(), seal.tenant.clone());
            let head = ledger.head().await.unwrap();
            let said = json!({ "seq": head.seq, "hash": head.hash });
            assert_eq!(json!(seal.details), said);
            let events = seal.events_where(|_| true);
            assert_eq!((events.len(), events[0].event_type.as_str()), (1, "audit.sealed"));
            assert_eq!(json!(events[0].payload), said);
        }
        // The seals are recorded, and on the next day nothing else has happened at acme's.
        for seal in sealed {
            world.append(&seal.tenant.clone(), vec![Entry::Record(Box::new(seal))]).await;
        }
        world.grow(&TenantId::default()).await;
        world.clock.advance(Duration::from_secs(11 * 3_600));
        world.sweep_twice().await;
        assert_eq!(world.records(RecordKind::Sealed).len(), 2, "it is still the same day");
        world.clock.advance(Duration::from_secs(3_600));
        world.sweep_twice().await;
        let sealed = world.records(RecordKind::Sealed);
        assert_eq!((sealed.len(), &sealed[2].tenant), (3, &TenantId::default()));
        assert_eq!(sealed[2].details["seq"], json!(3));
    }
}

#[tokio::test]
async fn an_empty_installation_is_swept_without_a_record() {
    let mut world = World::new(1).await;
    world.store = Arc::new(MemoryStore::new());
    let ports = Ports {
        store: world.store.clone(),
        blobs: Arc::new(MemoryBlobs::new()),
        clock: world.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(1)),
        wake: Arc::new(MemoryWake::new()),
    };
    let core = Core::new(ports, Arc::new(Rules::default()), 1);
    let swept = Sweeper::new(core, Arc::new(MemoryLanes::new())).sweep(100).await.unwrap();
    assert_eq!(swept.failed, 0);
    assert!(world.store.items().iter().all(|item| *item.kind != *Record::KIND));
}
