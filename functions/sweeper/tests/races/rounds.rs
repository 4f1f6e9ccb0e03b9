//! Thousands of tenants: each sweep handles some, the next continues, also in a new process, and
//! every tenant gets its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_alerts::{AlertStatus, AlertStore as _, RaiseAlert, Severity, StoredAlerts};
use watchbill_core::decide::{Authorization, Command, EngineConfig, VersionedAuthorization};
use watchbill_core::ports::{
    Clock as _, Commit, CommitError, DueKey, Item, Key, NewItem, Page, Precondition, Query, Store,
    StoreError, Write, WriteId,
};
use watchbill_core::repo::{Projection, STATS_FOLD, encode};
use watchbill_core::service::{Core, Governance, NewTask, OnFailure, TENANTS_A_CALL};
use watchbill_domain::{Agent, TaskId, TenantId, Timestamp};
use watchbill_governance::{Policies, Policy, PolicyUnavailable};
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{a_task, ports_over};

use super::World;

const TENANTS: usize = 1_234;

fn named(n: usize) -> TenantId {
    TenantId::parse(&format!("t{n:04}")).unwrap()
}

/// Counts list queries.
struct Counting {
    inner: Arc<dyn Store>,
    lists: AtomicUsize,
}

#[async_trait]
impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.inner.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.inner.collect(partition, prefix).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.inner.commit(commit).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.inner.query(query).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.inner.due(shard, until, limit, cursor).await
    }
}

/// A policy that a test changes.
struct Changing(std::sync::Mutex<&'static str>);

#[async_trait]
impl Policies for Changing {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        let fingerprint = self.0.lock().unwrap().to_string();
        Ok(Arc::new(Policy { fingerprint, ..Policy::without_gates() }))
    }
}

struct Many {
    world: World,
    store: Arc<Counting>,
    policies: Arc<Changing>,
    core: Core,
}

impl Many {
    async fn new() -> Self {
        let world = World::new(EngineConfig::default(), 1);
        let store = Arc::new(Counting { inner: world.store.clone(), lists: AtomicUsize::new(0) });
        let ports = ports_over(store.clone(), world.clock.clone(), 7);
        let policies = Arc::new(Changing(std::sync::Mutex::new("frozen")));
        let core = Core::new(ports, Arc::new(EngineConfig::default()), 1)
            .governed_by(Governance::new(policies.clone(), OnFailure::Restrict));
        for n in 0..TENANTS {
            let (tenant, name) = (named(n), STATS_FOLD.to_owned());
            let fold = Projection { tenant, name, seq_applied: 0, state: json!({}) };
            put(&world, n, encode(&fold, None), Precondition::Absent).await;
        }
        Self { world, store, policies, core }
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.core.clone(), self.world.lanes.clone())
    }

    /// Runs one sweep. Returns the number of list queries.
    async fn sweep(&self, sweeper: &Sweeper) -> usize {
        let before = self.store.lists.load(Ordering::Relaxed);
        assert_eq!(sweeper.sweep(100).await.unwrap().failed, 0);
        self.store.lists.load(Ordering::Relaxed) - before
    }

    async fn held(&self, tenant: TenantId) -> (TenantId, TaskId) {
        let new = NewTask { tenant: tenant.clone(), ..a_task() };
        let id = self.core.tasks().create(new).await.unwrap().task.task.id;
        let stored = self.core.tasks().stored(&tenant, &id).await.unwrap().unwrap();
        let until = self.world.clock.now().plus(Duration::from_secs(60 * 3_600));
        let decision = Authorization::Deferred { until, why: "freeze 'release'".into() };
        let authorization = VersionedAuthorization { version: stored.version, decision };
        let (agent, assignment) = (Agent::Ops, stored.value.assignment);
        let command = Command::Claim { agent, owner: "one".into(), assignment, authorization };
        self.core.tasks().command_on(stored, &command).await.unwrap();
        let stored = self.core.tasks().stored(&tenant, &id).await.unwrap().unwrap();
        assert!(stored.value.held.is_some());
        (tenant, id)
    }

    /// An open alert as stored by a build without due times.
    async fn old_alert(&self, tenant: &TenantId, n: usize) -> String {
        let book = StoredAlerts::new(self.core.clone());
        let raise = RaiseAlert {
            alert_type: "disk_full".into(),
            target: format!("db-{n}"),
            severity: Severity::High,
            message: "m".into(),
            labels: Default::default(),
            task_id: TaskId::parse(&format!("t-{n}")).unwrap(),
            at: self.world.clock.now(),
        };
        let id = book.raise(tenant, raise).await.unwrap().alert_id;
        let key = watchbill_core::repo::alert_key(tenant, &id);
        let item = self.world.store.get(&key).await.unwrap().unwrap();
        let mut body: Value = serde_json::from_slice(&item.body).unwrap();
        body.as_object_mut().unwrap().remove("look_at").unwrap();
        let old = NewItem {
            key,
            kind: item.kind.to_string().into(),
            schema: item.schema,
            body: body.to_string().into_bytes().into(),
            list: item.list,
            list2: item.list2,
            due: None,
            expires: None,
        };
        put(&self.world, 10_000 + n, old, Precondition::Version(item.version)).await;
        id
    }
}

async fn put(world: &World, n: usize, item: NewItem, expect: Precondition) {
    let commit = Commit { id: WriteId(n as u128 + 1), writes: vec![Write::Put { item, expect }] };
    world.store.commit(commit).await.unwrap();
}

#[tokio::test]
async fn old_open_alerts_of_all_tenants_end_some_at_a_time() {
    let many = Many::new().await;
    let mut alerts = Vec::new();
    // Many of one tenant, then of others up to the last.
    let of = std::iter::repeat_n(3, 450).chain((5..TENANTS).step_by(97)).chain([TENANTS - 1]);
    for (n, tenant) in of.enumerate() {
        let id = many.old_alert(&named(tenant), n).await;
        alerts.push((named(tenant), id));
    }
    many.world.clock.advance(Duration::from_secs(31 * 86_400));
    let book = StoredAlerts::new(many.core.clone());
    let open = async || {
        let mut open = 0;
        for (tenant, id) in &alerts {
            let alert = book.find(tenant, id).await.unwrap().unwrap();
            open += usize::from(alert.status != AlertStatus::Resolved);
        }
        open
    };
    let mut left = open().await;
    assert_eq!(left, alerts.len());
    for _ in 0..20 {
        // Each sweep in a new process.
        let lists = many.sweep(&many.sweeper()).await;
        assert!(lists <= 5 * TENANTS_A_CALL, "{lists} lists in one sweep");
        let now = open().await;
        assert!(left - now <= 200, "{} ended in one sweep", left - now);
        left = now;
    }
    assert_eq!(left, 0, "each tenant has its turn");
    // Once for the day; later sweeps query only what is due.
    let lists = many.sweep(&many.sweeper()).await;
    assert!(lists < 20, "{lists} lists where nothing is left");
}

#[tokio::test]
async fn deferred_tasks_wake_whatever_the_number_of_tenants() {
    let many = Many::new().await;
    let sweeper = many.sweeper();
    for _ in 0..30 {
        many.sweep(&sweeper).await;
    }
    let mut tasks = Vec::new();
    for tenant in [0, 1, 600, TENANTS - 1] {
        tasks.push(many.held(named(tenant)).await);
    }
    many.world.clock.advance(Duration::from_secs(30));
    *many.policies.0.lock().unwrap() = "lifted";
    let mut most = 0;
    let mut sweeps = 0;
    let held =
        async || {
            let mut held = 0;
            for (tenant, id) in &tasks {
                let stored = many.core.tasks().stored(tenant, id).await.unwrap().unwrap();
                held +=
                    usize::from(stored.value.resume_at.is_some_and(|at| {
                        at.since(many.world.clock.now()) > Duration::from_secs(60)
                    }));
            }
            held
        };
    assert_eq!(held().await, 4);
    while held().await > 0 {
        most = most.max(many.sweep(&sweeper).await);
        many.world.clock.advance(Duration::from_secs(1));
        sweeps += 1;
        assert!(sweeps < 200, "never done");
    }
    assert!(most <= 600, "{most} lists in one sweep");
}

/// A function's process may end at any time: later processes complete the wake-ups.
#[tokio::test]
async fn deferred_tasks_wake_though_the_process_ends_within_the_walk() {
    let many = Many::new().await;
    let sweeper = many.sweeper();
    for _ in 0..30 {
        many.sweep(&sweeper).await;
    }
    let (tenant, id) = many.held(named(TENANTS - 1)).await;
    let held = async || {
        let stored = many.core.tasks().stored(&tenant, &id).await.unwrap().unwrap();
        let wait = stored.value.resume_at.map(|at| at.since(many.world.clock.now()));
        wait.is_some_and(|wait| wait > Duration::from_secs(60))
    };
    many.world.clock.advance(Duration::from_secs(30));
    *many.policies.0.lock().unwrap() = "lifted";
    // Each process sees the policy, does one sweep and ends; none lives as long as the walk has
    // to wait. The task's own check would come a quarter of an hour after it was deferred.
    for sweep in 0..100 {
        many.sweep(&many.sweeper()).await;
        if !held().await {
            assert!(sweep >= 6, "woken while others may go by the policy before");
            return;
        }
        many.world.clock.advance(Duration::from_secs(6));
    }
    panic!("forgotten");
}
