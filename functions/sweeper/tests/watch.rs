//! Policy records and ledger seals, with two concurrent sweepers and a store that loses
//! responses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, json};
use watchbill_alerts::{AlertStatus, AlertStore as _, RaiseAlert, Severity, StoredAlerts};
use watchbill_core::decide::{
    Authorization, Claimant, Command, EngineConfig, Rejection, VersionedAuthorization,
};
use watchbill_core::ledger::{Batch, Entry, LedgerReader};
use watchbill_core::ports::{Clock as _, Commit, NewItem, Precondition, Store, Write, WriteId};
use watchbill_core::repo::{
    Entity as _, Projection, STATS_FOLD, decode, encode, ledger_key, policy_key,
};
use watchbill_core::service::{
    CommandError, Core, Governance, Identity, NewTask, OnFailure, ServiceError, TENANTS_A_CALL,
};
use watchbill_domain::{
    Agent, ChangeKind, Event, EventId, EventPriority, EventType, TaskId, TaskType, TenantId,
    Timestamp,
};
use watchbill_governance::{AuditRecord, Policies, Policy, PolicyUnavailable, RecordKind};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{
    Failure, FakeClock, FaultyStore, FlakyStore, MemoryLanes, MemoryStore, a_task, ports_over,
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
        let flaky = Arc::new(FlakyStore::new(store.clone(), seed, 20));
        Self::over(store, flaky, seed).await
    }

    /// The same, accessed through another store.
    async fn over(store: Arc<MemoryStore>, through: Arc<dyn Store>, seed: u64) -> Self {
        let noon = Timestamp::parse("2026-01-31T12:00:00Z").unwrap();
        let clock = Arc::new(FakeClock::auto(noon));
        let ports = ports_over(through, clock.clone(), seed);
        let policies = Arc::new(Changing::default());
        let governance = Governance::new(policies.clone(), OnFailure::Restrict);
        let rules = EngineConfig { external: [Agent::Dev].into(), ..EngineConfig::default() };
        let core = Core::new(ports, Arc::new(rules), 1).governed_by(governance);
        let mut world = Self { store, clock, policies, core, writes: 0 };
        for tenant in [TenantId::default(), acme()] {
            let name = STATS_FOLD.to_owned();
            let fold =
                Projection { tenant: tenant.clone(), name, seq_applied: 0, state: json!({}) };
            let item = encode(&fold, None);
            world.put(Write::Put { item, expect: Precondition::Absent }).await;
            world.grow(&tenant).await;
        }
        world
    }

    async fn put(&mut self, write: Write) {
        self.writes += 1;
        let id = WriteId(self.writes);
        self.store.commit(Commit { id, writes: vec![write] }).await.unwrap();
    }

    /// Publishes an event and appends it to the ledger.
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
        self.put(Write::Put { item, expect: Precondition::Absent }).await;
    }

    fn records(&self, kind: RecordKind) -> Vec<AuditRecord> {
        let items = self.store.items();
        let records = items.iter().filter(|item| *item.kind == *AuditRecord::KIND);
        let records = records.map(|item| decode::<AuditRecord>(item).unwrap().value);
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

    /// Two processes at once, as often as a flaky store needs to let both succeed.
    async fn sweep_twice(&self) {
        let (one, other) = (self.sweeper(), self.sweeper());
        for _ in 0..20 {
            let (one, other) = tokio::join!(one.sweep(100), other.sweep(100));
            let failed = |swept: &Result<watchbill_sweeper::SweepReport, _>| {
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
        // Back and forth: every change counts, also to an earlier policy.
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
async fn an_unreadable_policy_is_no_policy_change() {
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
async fn the_policy_record_is_read_every_thirty_seconds_or_on_a_change() {
    let store = Arc::new(MemoryStore::new());
    let counting = Arc::new(FaultyStore::counting(store.clone(), &policy_key().partition));
    let world = World::over(store, counting.clone(), 1).await;
    world.policies.set(Some("one"));
    let sweeper = world.sweeper();
    for (sweeps, expected) in [(1, 1), (29, 0), (1, 1)] {
        let before = counting.reads();
        for _ in 0..sweeps {
            assert_eq!(sweeper.sweep(100).await.unwrap().failed, 0);
            world.clock.advance(Duration::from_secs(1));
        }
        let reads = counting.reads() - before;
        assert_eq!(reads, expected, "in {sweeps} sweeps");
    }
    assert_eq!(world.records(RecordKind::PolicyChanged).len(), 2);
    world.policies.set(Some("two"));
    assert_eq!(sweeper.sweep(100).await.unwrap().failed, 0);
    assert_eq!(world.records(RecordKind::PolicyChanged).len(), 4, "seen by the next sweep");
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
        // The seals are recorded; on the next day acme's ledger has nothing else.
        for seal in sealed {
            world.append(&seal.tenant.clone(), vec![Entry::AuditRecord(Box::new(seal))]).await;
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

/// An unreadable ledger stops neither the seals of others nor its own tenant's policy record.
#[tokio::test]
async fn a_damaged_ledger_keeps_no_other_from_being_sealed() {
    for seed in 0..8 {
        let mut world = World::new(seed).await;
        world.policies.set(Some("aaaaaaaaaaaaaaaa"));
        let key = ledger_key(&acme(), 1);
        let item = world.store.get(&key).await.unwrap().unwrap();
        let torn = NewItem {
            key,
            kind: item.kind.to_string().into(),
            schema: item.schema,
            body: item.body.slice(..item.body.len() / 2),
            list: item.list.clone(),
            list2: None,
            due: None,
            expires: None,
        };
        world.put(Write::Put { item: torn, expect: Precondition::Version(item.version) }).await;
        world.sweep_twice().await;
        world.sweep_twice().await;
        let sealed = world.records(RecordKind::Sealed);
        assert_eq!(sealed.len(), 1, "seed {seed}");
        assert_eq!(sealed[0].tenant, TenantId::default());
        assert_eq!(world.records(RecordKind::PolicyChanged).len(), 2, "seed {seed}");
        assert_eq!(world.core.context().unreadable_items(), 1);
    }
}

/// The same for the policy record of one tenant.
#[tokio::test]
async fn a_tenant_without_a_policy_record_stops_no_other() {
    let store = Arc::new(MemoryStore::new());
    let faulty = Arc::new(FaultyStore::new(store.clone()));
    let world = World::over(store, faulty.clone(), 1).await;
    world.policies.set(Some("aaaaaaaaaaaaaaaa"));
    faulty.fail("T#acme#rec#", Failure::Corrupt);
    let sweeper = world.sweeper();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(31));
        assert_eq!(sweeper.sweep(100).await.unwrap().failed, 0);
    }
    let told = world.records(RecordKind::PolicyChanged);
    assert_eq!(told.iter().map(|of| &of.tenant).collect::<Vec<_>>(), [&TenantId::default()]);
    assert_eq!(world.records(RecordKind::Sealed).len(), 1);
}

/// A failed count does not report zero, so an alarm on the count keeps its state.
#[tokio::test]
async fn the_parked_count_is_the_last_successful_one() {
    let store = Arc::new(MemoryStore::new());
    let faulty = Arc::new(FaultyStore::new(store.clone()));
    let world = World::over(store, faulty.clone(), 1).await;
    world.core.parking().hold_events(&acme(), "on purpose").await.unwrap();
    let sweeper = world.sweeper();
    assert_eq!(sweeper.sweep(100).await.unwrap().parked.tenants, 1);
    faulty.fail("T#acme#parked", Failure::Down);
    let swept = sweeper.sweep(100).await.unwrap();
    assert_eq!((swept.failed, swept.parked.tenants), (1, 1));
}

/// One task per tenant that a freeze defers for days, and one of an external worker.
async fn held(world: &World) -> Vec<(TenantId, TaskId)> {
    let mut tasks = Vec::new();
    let plain = [(TenantId::default(), TaskType::Monitor), (acme(), TaskType::Monitor)];
    for (tenant, task_type) in plain.into_iter().chain([(acme(), TaskType::Bugfix)]) {
        let identity = Identity::Cause(vec![format!("{task_type}")]);
        let new = NewTask { tenant: tenant.clone(), task_type, identity, ..a_task() };
        let id = loop {
            if let Ok(created) = world.core.tasks().create(new.clone()).await {
                break created.task.task.id;
            }
        };
        tasks.push((tenant, id));
    }
    // The third check sets the next one an hour away.
    for minutes in [16, 31, 0] {
        for (tenant, id) in &tasks {
            while hold(world, tenant, id).await.is_err() {}
        }
        world.clock.advance(Duration::from_secs(minutes * 60));
    }
    tasks
}

async fn hold(world: &World, tenant: &TenantId, id: &TaskId) -> Result<(), ServiceError> {
    let Some(stored) = world.core.tasks().stored(tenant, id).await? else { return Ok(()) };
    let until = world.clock.now().plus(Duration::from_secs(60 * 3_600));
    let decision = Authorization::Deferred { until, why: "freeze 'release'".into() };
    let authorization = VersionedAuthorization { version: stored.version, decision };
    let (agent, assignment) = (stored.value.agent, stored.value.assignment);
    let command = match stored.value.external {
        true => Command::ClaimExternal { by: Claimant::key("w"), authorization },
        false => Command::Claim { agent, owner: "one".into(), assignment, authorization },
    };
    match world.core.tasks().command_on(stored, &command).await {
        Ok(_) | Err(CommandError::Rejected { rejection: Rejection::NotYet { .. }, .. }) => Ok(()),
        Err(error) => Err(error.into_service(id)),
    }
}

#[tokio::test]
async fn another_policy_wakes_what_the_previous_one_deferred() {
    for seed in 0..12 {
        let world = World::new(seed).await;
        world.policies.set(Some("frozen"));
        let sweeper = world.sweeper();
        let sweep = async || while sweeper.sweep(100).await.map_or(1, |swept| swept.failed) > 0 {};
        sweep().await;
        world.clock.advance(Duration::from_secs(60));
        sweep().await;
        let tasks = held(&world).await;
        sweep().await;
        let resume = async |(tenant, id): &(TenantId, TaskId)| loop {
            if let Ok(Some(stored)) = world.core.tasks().stored(tenant, id).await {
                let at = stored.value.resume_at.unwrap();
                break (at.since(world.clock.now()), stored);
            }
        };
        for task in &tasks {
            assert!(resume(task).await.0 > Duration::from_secs(5 * 60), "no other policy yet");
        }
        world.policies.set(Some("lifted"));
        world.clock.advance(Duration::from_secs(30));
        sweep().await;
        // Other processes may use the previous policy for half a minute.
        world.clock.advance(Duration::from_secs(36));
        sweep().await;
        for task in &tasks {
            let (wait, stored) = resume(task).await;
            assert!(wait <= Duration::from_secs(30), "seed {seed}: {wait:?} for {task:?}");
            assert_eq!(stored.value.offered_version, stored.version);
            assert_eq!(stored.value.log.iter().filter(|e| e.what == ChangeKind::Held).count(), 1);
        }
    }
}

#[tokio::test]
async fn an_empty_installation_is_swept_without_a_record() {
    let mut world = World::new(1).await;
    world.store = Arc::new(MemoryStore::new());
    let ports = ports_over(world.store.clone(), world.clock.clone(), 1);
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    let swept = Sweeper::new(core, Arc::new(MemoryLanes::new())).sweep(100).await.unwrap();
    assert_eq!(swept.failed, 0);
    assert!(world.store.items().iter().all(|item| *item.kind != *AuditRecord::KIND));
}

/// More tenants than one call handles: the next continues, also in another process, and each
/// tenant gets one record.
#[tokio::test]
async fn hundreds_of_tenants_are_recorded_and_sealed_in_parts() {
    let mut world = World::new(1).await;
    let many = 2 * TENANTS_A_CALL + 7;
    for n in 2..many {
        let tenant = TenantId::parse(&format!("t{n:04}")).unwrap();
        let name = STATS_FOLD.to_owned();
        let fold = Projection { tenant: tenant.clone(), name, seq_applied: 0, state: json!({}) };
        world.put(Write::Put { item: encode(&fold, None), expect: Precondition::Absent }).await;
        world.grow(&tenant).await;
    }
    world.policies.set(Some("aaaaaaaaaaaaaaaa"));
    // Two processes in turn: the second does not repeat records of the first.
    let sweepers = [world.sweeper(), world.sweeper()];
    let mut sweeps = 0;
    while world.records(RecordKind::PolicyChanged).len() < many {
        let before = world.records(RecordKind::PolicyChanged).len();
        _ = sweepers[sweeps % 2].sweep(100).await;
        let told = world.records(RecordKind::PolicyChanged).len() - before;
        assert!(told <= TENANTS_A_CALL, "{told} in one sweep");
        sweeps += 1;
        assert!(sweeps < 60, "never done");
    }
    for _ in 0..20 {
        _ = sweepers[0].sweep(100).await;
    }
    assert_eq!(world.records(RecordKind::PolicyChanged).len(), many);
    assert_eq!(world.records(RecordKind::Sealed).len(), many);
    // A new policy, once all tenants have the record of the first.
    world.policies.set(Some("bbbbbbbbbbbbbbbb"));
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(30));
        _ = sweepers[0].sweep(100).await;
    }
    let records = world.records(RecordKind::PolicyChanged);
    assert_eq!(records.len(), 2 * many);
    let second = records.iter().filter(|record| record.details["policy"] == "bbbbbbbbbbbbbbbb");
    assert!(second.clone().all(|record| record.details["before"] == "aaaaaaaaaaaaaaaa"));
    assert_eq!(second.count(), many);
}

/// The sweeper handles due alerts too.
#[tokio::test]
async fn an_open_alert_that_nobody_touches_ends() {
    let world = World::new(2).await;
    let book = StoredAlerts::new(world.core.clone());
    let raise = RaiseAlert {
        alert_type: "disk_full".into(),
        target: "db-1".into(),
        severity: Severity::High,
        message: "m".into(),
        labels: Default::default(),
        task_id: TaskId::parse("t-1").unwrap(),
        at: world.clock.now(),
    };
    let id = book.raise(&acme(), raise).await.unwrap().alert_id;
    let status = async || book.find(&acme(), &id).await.unwrap().unwrap().status;
    world.clock.advance(Duration::from_secs(29 * 86_400));
    world.sweeper().sweep(100).await.unwrap();
    assert_eq!(status().await, AlertStatus::Active);
    world.clock.advance(Duration::from_secs(2 * 86_400));
    for _ in 0..10 {
        world.sweeper().sweep(100).await.unwrap();
        world.clock.advance(Duration::from_secs(301));
    }
    assert_eq!(status().await, AlertStatus::Resolved);
    assert_eq!(world.records(RecordKind::AlertEnded).len(), 1);
}
