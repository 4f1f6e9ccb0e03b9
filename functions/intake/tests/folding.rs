//! Our own events in large numbers, as under overload, fold into one task.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use watchbill_core::decide::{Authorization, Command, EngineConfig, VersionedAuthorization};
use watchbill_core::ledger::{Entry, entries_of};
use watchbill_core::repo::{LedgerPeek, StoredTask, decode};
use watchbill_core::service::{Core, Governance, NewTask};
use watchbill_domain::{Event, Priority, ReputationEvent, Task, TaskId, TaskType, TenantId};
use watchbill_governance::Policy;
use watchbill_intake::{Intake, shipped_reactions};
use watchbill_testkit::{FakeClock, MemoryStore, a_task, ports_over};

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    core: Core,
    intake: Intake,
}

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::default());
        let ports = ports_over(store.clone(), clock.clone(), 1);
        let core = Core::new(ports, Arc::new(EngineConfig::default()), 1)
            .governed_by(Governance::fixed(Policy::without_gates()));
        let intake = Intake::new(core.clone(), shipped_reactions());
        Self { store, clock, core, intake }
    }

    async fn create(&self, tenant: &TenantId, priority: Priority) -> TaskId {
        let new =
            NewTask { tenant: tenant.clone(), priority, sla_target: Some("1h".into()), ..a_task() };
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    /// Lets `n` tasks pass their deadline and returns the events; each is handled twice.
    async fn violate(&self, tenant: &TenantId, priority: Priority, n: usize) -> Vec<Event> {
        let mut tasks = Vec::new();
        for _ in 0..n {
            let id = self.create(tenant, priority).await;
            tasks.push(self.core.tasks().stored(tenant, &id).await.unwrap().unwrap());
        }
        self.clock.advance(Duration::from_secs(3_600));
        self.change_all(tenant, tasks, |_| Command::Tick { lane_busy: true }).await
    }

    /// Lets `n` tasks be denied at their claim for the given reason.
    async fn refuse(&self, tenant: &TenantId, event: ReputationEvent, n: usize) -> Vec<Event> {
        let mut tasks = Vec::new();
        for _ in 0..n {
            let id = self.create(tenant, Priority::P2).await;
            tasks.push(self.core.tasks().stored(tenant, &id).await.unwrap().unwrap());
        }
        let claim = |stored: &StoredTask| {
            let score_delta = Some(self.core.rules().reputation.score_delta(event));
            let decision = Authorization::Denied {
                error: "Permission denied: on purpose".into(),
                score_delta,
            };
            Command::Claim {
                agent: stored.value.agent,
                owner: "one".into(),
                assignment: stored.value.assignment,
                authorization: VersionedAuthorization { version: stored.version, decision },
            }
        };
        self.change_all(tenant, tasks, claim).await
    }

    async fn change_all(
        &self,
        tenant: &TenantId,
        tasks: Vec<StoredTask>,
        command: impl Fn(&StoredTask) -> Command,
    ) -> Vec<Event> {
        let mut told = Vec::new();
        for stored in tasks {
            let (id, command) = (stored.value.id.clone(), command(&stored));
            let changed = self.core.tasks().command_on(stored, &command).await.unwrap();
            let item = self.store.items().into_iter().find(|item| {
                *item.kind == *"task" && decode::<Task>(item).is_ok_and(|t| t.value.id == id)
            });
            let task = LedgerPeek::of(&item.unwrap()).unwrap();
            let entries = entries_of(task, Vec::new(), changed.version - 1);
            told.extend(entries.iter().flat_map(Entry::events));
        }
        for event in told.iter().flat_map(|event| [event, event]) {
            self.intake.handle(tenant, event).await.unwrap();
        }
        told
    }

    fn alerts(&self, tenant: &TenantId) -> Vec<Task> {
        let items = self.store.items();
        let tasks = items.iter().filter(|item| *item.kind == *"task");
        let tasks = tasks.map(|item| decode::<Task>(item).unwrap().value);
        let mut alerts: Vec<_> =
            tasks.filter(|t| t.task_type == TaskType::Alert && t.tenant == *tenant).collect();
        alerts.sort_by_key(|task| task.created_at);
        alerts
    }

    async fn end(&self, alert: &Task) {
        let caller = watchbill_domain::Caller {
            name: "kim".into(),
            role: watchbill_domain::Role::Admin,
            tenant: alert.tenant.clone(),
            made_by: None,
        };
        self.core.tasks().cancel(&caller, &alert.id, None).await.unwrap();
    }
}

fn payload(task: &Task, name: &str) -> Value {
    task.payload.inline().unwrap().get(name).cloned().unwrap_or_default()
}

#[tokio::test]
async fn many_violations_make_one_open_alert_task() {
    let world = World::new();
    let told = world.violate(&acme(), Priority::P2, 50).await;
    let of = |name: &str| told.iter().filter(|event| event.event_type.as_str() == name).count();
    assert_eq!((of("sla.violation"), of("alert.triggered")), (50, 50), "each one is an event");
    let alerts = world.alerts(&acme());
    assert_eq!(alerts.len(), 1);
    assert_eq!(payload(&alerts[0], "target"), "P2 tasks");
    let first = told.iter().find_map(|event| event.task_id.as_ref()).unwrap();
    let message = payload(&alerts[0], "message");
    assert!(message.as_str().unwrap().contains(first.as_str()), "{message}");
    // The window has passed but the task is open: it covers the following events too.
    world.violate(&acme(), Priority::P2, 50).await;
    assert_eq!(world.alerts(&acme()).len(), 1);
    // Another priority or tenant has its own task.
    world.violate(&acme(), Priority::P3, 5).await;
    world.violate(&TenantId::default(), Priority::P2, 5).await;
    assert_eq!((world.alerts(&acme()).len(), world.alerts(&TenantId::default()).len()), (2, 1));
}

#[tokio::test]
async fn the_next_alert_task_says_how_many_there_were() {
    let world = World::new();
    let told = world.violate(&acme(), Priority::P2, 50).await;
    let mut tasks: Vec<&str> =
        told.iter().filter_map(|event| event.task_id.as_ref()).map(TaskId::as_str).collect();
    tasks.dedup();
    world.end(&world.alerts(&acme())[0]).await;
    let later = world.violate(&acme(), Priority::P2, 3).await;
    let alerts = world.alerts(&acme());
    assert_eq!(alerts.len(), 2, "the first one is over, and its window");
    assert!(payload(&alerts[0], "count").is_null());
    // 49 after the first one, and this one.
    let shown = world.core.tasks().payload(&alerts[1]).await.unwrap();
    assert_eq!(shown["count"], json!(50));
    let message = &shown["message"];
    let message = message.as_str().unwrap();
    assert!(message.contains("and 49 more"), "{message}");
    // The message names the first few and counts the others.
    for id in &tasks[1..6] {
        assert!(message.contains(id), "{id} in {message}");
    }
    assert!(!message.contains(tasks[6]) && message.contains("and 44 others"), "{message}");
    let own = later[0].task_id.as_ref().unwrap().as_str();
    let named = json!([&[own], &tasks[1..6]].concat());
    assert_eq!(shown["task_ids"], named);
}

/// Denials and spent budgets occur in numbers and fold; each violation gets its own task.
#[tokio::test]
async fn denials_and_spent_budgets_fold_and_violations_do_not() {
    for (event, alerts) in [
        (ReputationEvent::PermissionDenied, 1),
        (ReputationEvent::BudgetExceeded, 1),
        (ReputationEvent::ViolationDetected, 5),
    ] {
        let world = World::new();
        let told = world.refuse(&acme(), event, 5).await;
        let triggered = told.iter().filter(|told| told.event_type.as_str() == "alert.triggered");
        assert_eq!(triggered.count(), 5, "{event}: each one is an event");
        assert_eq!(world.alerts(&acme()).len(), alerts, "{event}");
    }
}

/// Only our own events may fold: a caller's events must not hide another's.
#[tokio::test]
async fn what_a_caller_publishes_never_folds() {
    let world = World::new();
    let told = world.violate(&acme(), Priority::P2, 1).await;
    let alert = told.iter().find(|event| event.event_type.as_str() == "alert.triggered").unwrap();
    for n in 0..3 {
        let mut published = alert.clone();
        published.event_id = watchbill_domain::EventId::parse(&format!("e-{n}")).unwrap();
        published.metadata.insert("published_by".into(), json!("ci"));
        published.payload.insert("target".into(), json!(format!("shop-{n}")));
        world.intake.handle(&acme(), &published).await.unwrap();
    }
    assert_eq!(world.alerts(&acme()).len(), 4);
}
