//! Creates everything that a tenant can have, for two tenants in one store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_alerts::{AlertStore as _, RaiseAlert, Severity, StoredAlerts};
use watchbill_core::decide::{Command, EngineConfig, VersionedAuthorization};
use watchbill_core::ports::{Bus, Clock as _, Commit, NewItem, Precondition, Store as _, Write};
use watchbill_core::repo::{Child, EffectRecord, Window, encode};
use watchbill_core::service::{
    Core, Identity, LinkDecision, LinkUse, NewEvent, NewTask, Ports, StatusChange, ToPark,
    WaitBounds,
};
use watchbill_domain::{
    Agent, Amount, ApprovalId, Caller, EventId, Priority, Role, Status, TaskId, TaskType, TenantId,
};
use watchbill_governance::BudgetLimits;
use watchbill_recorder::Recorder;
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{
    FakeClock, MemoryBlobs, MemoryBus, MemoryLanes, MemoryStore, MemoryWake, SeededEntropy,
};

pub struct World {
    pub store: Arc<MemoryStore>,
    pub blobs: Arc<MemoryBlobs>,
    pub core: Core,
    clock: Arc<FakeClock>,
}

/// What a tenant has, by the identifiers that others would try.
pub struct Lived {
    pub tenant: TenantId,
    pub tasks: Vec<TaskId>,
    pub event: EventId,
    pub key: String,
    pub alert: String,
    plan_hash: String,
}

/// One name begins with the other.
pub fn tenants() -> [TenantId; 2] {
    ["acme", "acme-2"].map(|name| TenantId::parse(name).unwrap())
}

/// Part of everything that a tenant writes.
pub fn mark(tenant: &TenantId) -> String {
    format!("<{tenant}>")
}

/// Ids as clients may choose them: the same in both tenants, and such as would lead elsewhere if
/// they were put into a key unescaped.
const GIVEN: &[&str] = &["shared-id", "x#0", "../T#acme-2#task#shared-id", "T#acme#task#y", "%23"];

pub fn is_shared(id: &str) -> bool {
    GIVEN.contains(&id)
}

/// A link that was issued for the tenant and is used.
pub fn link_use(lived: &Lived) -> LinkUse {
    LinkUse {
        nonce: format!("{:0>32}", lived.tenant.as_str().len()),
        plan_hash: lived.plan_hash.clone(),
        to: format!("alice {}", mark(&lived.tenant)),
        expires: watchbill_domain::Timestamp::from_millis(i64::MAX / 2),
    }
}

impl World {
    /// A store in which both tenants have created everything, one after the other.
    pub async fn lived() -> (Self, Vec<Lived>) {
        let store = Arc::new(MemoryStore::new());
        let blobs = Arc::new(MemoryBlobs::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let ports = Ports {
            store: store.clone(),
            blobs: blobs.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(7)),
            wake: Arc::new(MemoryWake::new()),
        };
        let rules = EngineConfig { external: [Agent::Dev].into(), ..EngineConfig::default() };
        let core = Core::new(ports, Arc::new(rules), 1);
        let world = Self { store, blobs, core, clock };
        let mut lived = Vec::new();
        for tenant in tenants() {
            lived.push(world.live(tenant).await);
            world.record().await;
        }
        // The policy and the seals belong to tenants that are known by then.
        let sweeper = Sweeper::new(world.core.clone(), Arc::new(MemoryLanes::new()));
        assert_eq!(sweeper.sweep(1_000).await.unwrap().failed, 0);
        world.record().await;
        for tenant in tenants() {
            world.park(&tenant).await;
        }
        (world, lived)
    }

    pub fn alerts(&self) -> StoredAlerts {
        StoredAlerts::new(self.core.clone())
    }

    /// Parks changes that can't be recorded now, with a reason that names their tenant.
    async fn park(&self, tenant: &TenantId) {
        let partition = format!("T#{tenant}#task#later").into();
        let later = ToPark { partition, first: Some(1), last: 1, unsent: None };
        self.core.parking().park(tenant, &[later], &mark(tenant)).await.unwrap();
    }

    /// Runs a recorder that reads everything from the beginning.
    async fn record(&self) {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
        let recorder = Recorder::new(self.core.clone(), bus);
        let changes = self.store.changes(0, usize::MAX);
        let changes: Vec<_> = changes.into_iter().map(|(_, change)| change).collect();
        recorder.record(&changes).await.unwrap();
        recorder.save().await.unwrap();
    }

    async fn create(&self, tenant: &TenantId, new: impl FnOnce(&mut NewTask)) -> TaskId {
        let mut task = NewTask {
            tenant: tenant.clone(),
            task_type: TaskType::Monitor,
            priority: Priority::P2,
            source: "user".into(),
            payload: object(json!({ "note": mark(tenant) })),
            metadata: object(json!({ "note": mark(tenant) })),
            sla_target: None,
            sla_deadline: None,
            parent: None,
            trace_id: None,
            max_retries: None,
            created_by: format!("bob {}", mark(tenant)),
            also_requested_by: Vec::new(),
            identity: Identity::Fresh,
            hops: 0,
        };
        new(&mut task);
        self.core.tasks().create(task).await.unwrap().task.task.id
    }

    async fn live(&self, tenant: TenantId) -> Lived {
        let mut tasks = self.plain_tasks(&tenant).await;
        tasks.extend(self.work_outside(&tenant).await);
        let (gated, plan_hash) = self.approvals(&tenant).await;
        tasks.extend(gated);
        let key = self.access(&tenant).await;
        self.budget(&tenant, &tasks[0]).await;
        let event = self.event(&tenant).await;
        let bounds = WaitBounds { all: 8, tenant: 2 };
        let place = self.core.waits().take(&tenant, bounds, Duration::from_secs(20)).await;
        place.unwrap().unwrap();
        let alert = self.alert(&tenant, &tasks[0]).await;
        let lived = Lived { tenant, tasks, event, key, alert, plan_hash };
        self.by_hand(&lived).await;
        // One approval is decided by a link.
        let gated = lived.tasks.last().unwrap();
        let decision = LinkDecision::Reject { reason: Some(mark(&lived.tenant)) };
        let (approval, used) = (ApprovalId::of(gated, 1), link_use(&lived));
        self.core
            .approvals()
            .decide_by_link(&lived.tenant, &approval, &used, decision)
            .await
            .unwrap();
        lived
    }

    async fn plain_tasks(&self, tenant: &TenantId) -> Vec<TaskId> {
        let parent = self.create(tenant, |_| ()).await;
        let child = self.create(tenant, |new| new.parent = Some(parent.clone())).await;
        let mut tasks = vec![parent, child];
        for id in GIVEN {
            let id = TaskId::parse(id).unwrap();
            tasks.push(self.create(tenant, |new| new.identity = Identity::Given(id)).await);
        }
        for bytes in [2_000, 150_000] {
            let text = format!("{}{}", mark(tenant), "x".repeat(bytes));
            let payload = object(json!({ "text": text }));
            tasks.push(self.create(tenant, |new| new.payload = payload).await);
        }
        let key = Identity::IdempotencyKey("the same in both".into());
        tasks.push(self.create(tenant, |new| new.identity = key).await);
        tasks
    }

    /// Tasks of an external worker: one that takes long and has a large result, one that gets
    /// blocked.
    async fn work_outside(&self, tenant: &TenantId) -> Vec<TaskId> {
        let worker = Caller {
            name: format!("w {}", mark(tenant)),
            role: Role::Agent,
            tenant: tenant.clone(),
            made_by: None,
        };
        let dev = |new: &mut NewTask| new.task_type = TaskType::Bugfix;
        let (long, failed) = (self.create(tenant, dev).await, self.create(tenant, dev).await);
        let to = |status, error: Option<String>, result: Option<Value>| StatusChange {
            status,
            error,
            result: result.map(object),
        };
        for _ in 0..20 {
            let still = to(Status::InProgress, None, None);
            self.core.tasks().set_status(&worker, &long, still).await.unwrap();
            self.clock.advance(Duration::from_secs(60));
        }
        let result = json!({ "text": format!("{}{}", mark(tenant), "y".repeat(200_000)) });
        let done = to(Status::Completed, None, Some(result));
        self.core.tasks().set_status(&worker, &long, done).await.unwrap();
        let no = to(Status::Blocked, Some(format!("which {}", mark(tenant))), None);
        self.core.tasks().set_status(&worker, &failed, no).await.unwrap();
        vec![long, failed]
    }

    /// One approved, one rejected, one open, which a link will decide.
    async fn approvals(&self, tenant: &TenantId) -> (Vec<TaskId>, String) {
        let mut tasks = Vec::new();
        for _ in 0..3 {
            tasks.push(self.create(tenant, |new| new.task_type = TaskType::Deploy).await);
        }
        let alice = Caller {
            name: format!("alice {}", mark(tenant)),
            role: Role::Approver,
            tenant: tenant.clone(),
            made_by: None,
        };
        self.core.approvals().approve(&alice, &ApprovalId::of(&tasks[0], 1)).await.unwrap();
        let reason = Some(mark(tenant));
        self.core.approvals().reject(&alice, &ApprovalId::of(&tasks[1], 1), reason).await.unwrap();
        let open = self.core.approvals().get(tenant, &ApprovalId::of(&tasks[2], 1)).await.unwrap();
        (tasks, open.approval.plan_hash)
    }

    async fn access(&self, tenant: &TenantId) -> String {
        let operator = Caller {
            name: "operator".into(),
            role: Role::Operator,
            tenant: TenantId::default(),
            made_by: None,
        };
        self.core.keys().create_tenant(&operator, tenant, "first").await.unwrap();
        let admin = Caller {
            name: "first".into(),
            role: Role::Admin,
            tenant: tenant.clone(),
            made_by: None,
        };
        let name = format!("helper-of-{tenant}");
        self.core.keys().create(&admin, tenant, &name, Role::User).await.unwrap();
        self.core.keys().create(&admin, tenant, "gone", Role::User).await.unwrap();
        self.core.keys().revoke(&admin, "gone").await.unwrap();
        let hour = Duration::from_secs(3_600);
        self.core.audit().record_token(&admin, &mark(tenant), Role::User, hour).await.unwrap();
        name
    }

    /// The tenant's own limits, and a reservation of a run.
    async fn budget(&self, tenant: &TenantId, task: &TaskId) {
        let admin =
            Caller { name: mark(tenant), role: Role::Admin, tenant: tenant.clone(), made_by: None };
        let amount = |micro_usd| Amount { micro_usd, tokens: 1_000 };
        let limits = BudgetLimits { day: amount(4_000), hour: amount(3_000), task: amount(2_000) };
        self.core.budgets().set_limits(&admin, limits).await.unwrap();
        let stored = self.core.tasks().stored(tenant, task).await.unwrap().unwrap();
        let (agent, owner) = (Agent::Ops, format!("run {}", mark(tenant)));
        let (assignment, authorization) =
            (stored.value.assignment, VersionedAuthorization::granted(stored.version));
        let claim = Command::Claim { agent, owner, assignment, authorization };
        let claimed = self.core.tasks().command(tenant, task, &claim).await.unwrap();
        let most = Amount { micro_usd: 1_900, tokens: 900 };
        self.core.tasks().reserve(tenant, task, claimed.value.fence, most).await.unwrap();
    }

    async fn event(&self, tenant: &TenantId) -> EventId {
        let event = |id: String| NewEvent {
            tenant: tenant.clone(),
            event_type: "deploy.failed".into(),
            source_agent: "ci".into(),
            payload: object(json!({ "note": mark(tenant) })),
            task_id: Some(TaskId::parse("shared-id").unwrap()),
            trace_id: None,
            priority: None,
            published_by: "ci".into(),
            event_id: Some(id),
            hops: 0,
        };
        // The same id in both tenants means two events.
        self.core.events().publish(event("T#acme#evt#1".into())).await.unwrap();
        self.core.events().publish(event(format!("e-{tenant}"))).await.unwrap().event_id
    }

    async fn alert(&self, tenant: &TenantId, task: &TaskId) -> String {
        let raise = RaiseAlert {
            alert_type: "high_cpu#0".into(),
            target: "T#acme#web-1".into(),
            severity: Severity::Critical,
            message: mark(tenant),
            labels: BTreeMap::new(),
            task_id: task.clone(),
            at: self.clock.now(),
        };
        self.alerts().raise(tenant, raise).await.unwrap().alert_id
    }

    /// Writes the items of functions that do not run here.
    async fn by_hand(&self, lived: &Lived) {
        let (tenant, task, now) = (&lived.tenant, &lived.tasks[0], self.clock.now());
        let step = EffectRecord {
            tenant: tenant.clone(),
            task: task.clone(),
            key: "T#acme#step#1".into(),
            what: "deploy".into(),
            target: mark(tenant),
            provider_key: "p".into(),
            fence: 1,
            intended_at: now,
            settles_at: now,
            call_hash: None,
            outcome: None,
            expires: None,
        };
        let window = Window {
            tenant: tenant.clone(),
            reaction: "alerts#T#acme".into(),
            subject: "T#acme#x".into(),
            at: now,
            event: lived.event.clone(),
            task: None,
            folded: 0,
            folded_tasks: Vec::new(),
            last: None,
            expires: now,
        };
        let child = Child {
            tenant: tenant.clone(),
            parent: task.clone(),
            child: TaskId::parse("T#acme#task#z").unwrap(),
            at: now,
            expires: None,
        };
        self.put(encode(&step, None)).await;
        self.put(encode(&window, None)).await;
        self.put(encode(&child, None)).await;
    }

    async fn put(&self, item: NewItem) {
        let id = self.core.entropy().write_id();
        let writes = vec![Write::Put { item, expect: Precondition::Absent }];
        self.store.commit(Commit { id, writes }).await.unwrap();
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}
