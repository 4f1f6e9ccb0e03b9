//! What the sweeper does to tasks as time passes, with two sweepers, vanished executors and full
//! lanes.

mod backlog;
mod parked;
mod rounds;
mod time;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use watchbill_core::decide::VersionedAuthorization;
use watchbill_core::decide::{Command, EngineConfig, RunResult, next_due};
use watchbill_core::ports::{
    Clock as _, Commit, Key, NewItem, Precondition, Store as _, Write, WriteId,
};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::Governance;
use watchbill_core::service::{
    CommandError, Core, NewTask, Replayed, ServiceError, StatusChange, ToPark,
};
use watchbill_domain::{
    Agent, ApprovalId, ApprovalStatus, Body, Caller, Outcome, Priority, Role, Status, TaskId,
    TenantId, Timestamp,
};
use watchbill_governance::Policy;
use watchbill_sweeper::Sweeper;
use watchbill_testkit::{FakeClock, FlakyStore, MemoryLanes, MemoryStore, a_task, ports_over};

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    lanes: Arc<MemoryLanes>,
    core: Core,
}

fn tenant() -> TenantId {
    TenantId::default()
}

impl World {
    fn new(rules: EngineConfig, seed: u64) -> Self {
        Self::under(Policy::without_gates(), rules, seed)
    }

    fn under(policy: Policy, rules: EngineConfig, seed: u64) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let ports =
            ports_over(Arc::new(FlakyStore::new(store.clone(), seed, 0)), clock.clone(), seed);
        let core = Core::new(ports, Arc::new(rules), 1).governed_by(Governance::fixed(policy));
        Self { store, clock, lanes: Arc::new(MemoryLanes::new()), core }
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.core.clone(), self.lanes.clone())
    }

    async fn sweep(&self) {
        self.sweeper().sweep(100_000).await.unwrap();
    }

    async fn create(&self, priority: Priority) -> TaskId {
        let new = NewTask { priority, ..a_task() };
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    async fn stored(&self, id: &TaskId) -> StoredTask {
        self.core.tasks().stored(&tenant(), id).await.unwrap().unwrap()
    }

    async fn claim(&self, id: &TaskId) -> Result<StoredTask, CommandError> {
        let assignment = self.stored(id).await.value.assignment;
        let stored = self.core.tasks().stored(&tenant(), id).await?;
        let authorization =
            VersionedAuthorization::granted(stored.map_or(0, |stored| stored.version));
        let (agent, owner) = (Agent::Ops, "one".into());
        let command = Command::Claim { agent, owner, assignment, authorization };
        self.core.tasks().command(&tenant(), id, &command).await
    }

    async fn end(
        &self,
        id: &TaskId,
        fence: u64,
        ending: RunResult,
    ) -> Result<StoredTask, CommandError> {
        let (events, notes, outcome) = (Vec::new(), Vec::new(), Outcome::default());
        let command = Command::End { fence, ending, events, notes, outcome };
        self.core.tasks().command(&tenant(), id, &command).await
    }

    /// Advances the clock to when the next item is due.
    fn to_next_due(&self) {
        let next = self.store.items().iter().filter_map(|item| item.due).min();
        self.clock.advance(next.unwrap_or_default().since(self.clock.now()));
    }

    fn assert_nothing_due(&self) {
        assert!(self.store.items().iter().all(|item| item.due.is_none()));
    }

    async fn times(&self, id: &TaskId, event: &str) -> usize {
        let timeline = self.core.tasks().timeline(&tenant(), id).await.unwrap();
        timeline.iter().filter(|entry| entry.what == event).count()
    }
}

fn done() -> RunResult {
    RunResult::Succeeded { result: Body::default() }
}

#[tokio::test]
async fn two_sweepers_do_what_one_does() {
    for seed in 0..12 {
        let world = World::new(EngineConfig::default(), seed);
        let mut tasks = Vec::new();
        for n in 0..12 {
            tasks.push(world.create(Priority::ALL[n % 4]).await);
        }
        for _ in 0..12 {
            world.to_next_due();
            let (one, other) = (world.sweeper(), world.sweeper());
            let (one, other) = tokio::join!(one.sweep(1_000), other.sweep(1_000));
            assert_eq!((one.unwrap().failed, other.unwrap().failed), (0, 0));
        }
        for id in &tasks {
            let task = world.stored(id).await.value;
            let sla = task.sla.as_ref().unwrap();
            let counts =
                (world.times(id, "sla.warning").await, world.times(id, "sla.violation").await);
            assert!(counts.0 <= 1 && counts.1 == usize::from(sla.violated), "{counts:?} {sla:?}");
            let offered = world.times(id, "offered").await;
            assert_eq!(offered, task.offers.min(5) as usize, "each offer counts, and counts once");
        }
    }
}

/// A run ends while its task is being checked: both take effect, in some order.
#[tokio::test]
async fn sweeper_against_executor_neither_is_lost() {
    for seed in 0..40 {
        let world = World::new(EngineConfig::default(), seed);
        let id = world.create(Priority::P0).await;
        let fence = world.claim(&id).await.unwrap().value.fence;
        world.clock.advance(Duration::from_secs(13 * 60));
        let (_, ended) = tokio::join!(world.sweep(), world.end(&id, fence, done()));
        assert_eq!(ended.unwrap().value.status, Status::Completed);
        let stored = world.stored(&id).await;
        assert_eq!(stored.value.status, Status::Completed);
        assert_eq!(world.times(&id, "completed").await, 1);
        world.sweep().await;
        world.assert_nothing_due();
    }
}

/// A task is claimed at the moment it is given up: exactly one succeeds.
#[tokio::test]
async fn a_claim_against_the_last_offer_has_one_winner() {
    let mut claimed = 0;
    for seed in 0..40 {
        let world = World::new(EngineConfig::default(), seed);
        let id = world.create(Priority::P3).await;
        for _ in 0..5 {
            world.to_next_due();
            world.sweep().await;
        }
        while world.stored(&id).await.value.offers < 5 {
            world.to_next_due();
            world.sweep().await;
        }
        let offer_at = world.stored(&id).await.value.offer_at.unwrap();
        world.clock.advance(offer_at.since(world.clock.now()));
        let claim = async {
            for _ in 0..seed * 4 {
                tokio::task::yield_now().await;
            }
            world.claim(&id).await
        };
        let (_, claim) = tokio::join!(world.sweep(), claim);
        let status = world.stored(&id).await.value.status;
        assert_eq!(status, if claim.is_ok() { Status::InProgress } else { Status::Failed });
        claimed += usize::from(claim.is_ok());
    }
    assert!((1..40).contains(&claimed), "the claim won {claimed} times of 40");
}

#[tokio::test]
async fn five_offers_without_a_claim_are_the_end() {
    let world = World::new(EngineConfig::default(), 1);
    let id = world.create(Priority::P3).await;
    let mut looks = 0;
    while world.stored(&id).await.value.status == Status::Assigned {
        world.to_next_due();
        world.sweep().await;
        looks += 1;
        assert!(looks < 30, "never given up");
    }
    let task = world.stored(&id).await.value;
    assert_eq!(task.status, Status::Failed);
    assert!(task.error.unwrap().starts_with("undeliverable"));
    assert_eq!(world.times(&id, "offered").await, 5);
    world.assert_nothing_due();
}

/// A test environment whose ops tasks are for external workers, with one task and a worker.
async fn outside() -> (World, TaskId, Caller) {
    let world =
        World::new(EngineConfig { external: [Agent::Ops].into(), ..EngineConfig::default() }, 1);
    let id = world.create(Priority::P3).await;
    (world, id, Caller { name: "w".into(), role: Role::Agent, tenant: tenant(), made_by: None })
}

fn to(status: Status) -> StatusChange {
    StatusChange { status, error: None, result: Some(Map::new()) }
}

#[tokio::test]
async fn a_worker_outside_that_went_silent_loses_the_task() {
    let (world, id, worker) = outside().await;
    world.core.tasks().set_status(&worker, &id, to(Status::InProgress)).await.unwrap();
    world.clock.advance(Duration::from_secs(15 * 60 - 1));
    world.sweep().await;
    assert_eq!(world.stored(&id).await.value.status, Status::InProgress);
    world.clock.advance(Duration::from_secs(1));
    world.sweep().await;
    let task = world.stored(&id).await.value;
    assert_eq!((task.status, task.lost_runs, task.assignment), (Status::Assigned, 1, 2));
    // Another worker claims it; the first one's report comes too late.
    let other = Caller { name: "v".into(), ..worker.clone() };
    world.core.tasks().set_status(&other, &id, to(Status::InProgress)).await.unwrap();
    let late = world.core.tasks().set_status(&worker, &id, to(Status::Completed)).await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    world.core.tasks().set_status(&other, &id, to(Status::Completed)).await.unwrap();
    world.assert_nothing_due();
}

#[tokio::test]
async fn a_task_that_every_external_worker_drops_is_given_up() {
    let (world, id, worker) = outside().await;
    for lost in 1..=6 {
        assert_eq!(world.stored(&id).await.value.status, Status::Assigned, "after {lost} times");
        world.core.tasks().set_status(&worker, &id, to(Status::InProgress)).await.unwrap();
        world.clock.advance(Duration::from_secs(15 * 60));
        world.sweep().await;
    }
    assert_eq!(world.stored(&id).await.value.status, Status::Failed);
    let late = world.core.tasks().set_status(&worker, &id, to(Status::Completed)).await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    world.assert_nothing_due();
}

#[tokio::test]
async fn an_approval_nobody_decides_on_expires_with_its_task() {
    let world = World::under(Policy::default(), EngineConfig::default(), 1);
    let id = world.create(Priority::P1).await;
    let half = world.core.rules().decide_within / 2;
    for _ in 0..2 {
        world.clock.advance(half);
        let (one, other) = (world.sweeper(), world.sweeper());
        let (one, other) = tokio::join!(one.sweep(1_000), other.sweep(1_000));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(world.times(&id, "approval.escalated").await, 1, "pointed out again, once");
    }
    assert_eq!(world.stored(&id).await.value.status, Status::Pending, "its last moment counts");
    world.clock.advance(Duration::from_millis(1));
    let (one, other) = (world.sweeper(), world.sweeper());
    let (one, other) = tokio::join!(one.sweep(1_000), other.sweep(1_000));
    assert!(one.is_ok() && other.is_ok());
    let approval =
        world.core.approvals().get(&tenant(), &ApprovalId::of(&id, 1)).await.unwrap().approval;
    assert_eq!(approval.status, ApprovalStatus::Expired);
    assert_eq!(world.stored(&id).await.value.status, Status::Cancelled);
    assert_eq!(world.times(&id, "approval.expired").await, 1);
    world.assert_nothing_due();
}

/// The index may list a task early; the check then corrects its due time and does not delay an
/// SLA deadline.
#[tokio::test]
async fn a_look_that_comes_early_puts_nothing_off() {
    let world = World::new(EngineConfig::default(), 1);
    let id = world.create(Priority::P1).await;
    let fence = world.claim(&id).await.unwrap().value.fence;
    let retry = Some(Duration::from_secs(40 * 60));
    world.end(&id, fence, RunResult::Failed { error: "later".into(), retry }).await.unwrap();
    let created: Timestamp = world.stored(&id).await.value.created_at;
    let minute = |n: u64| created.plus(Duration::from_secs(n * 60));
    // At 15 min the first offer's deadline, at 42 min the resume, at 48 the warning, at 60 the
    // end.
    let go_to = |at: Timestamp| world.clock.advance(at.since(world.clock.now()));
    go_to(minute(15));
    world.sweep().await;
    let stored = world.stored(&id).await;
    assert_eq!(stored.due, next_due(&stored.value, world.clock.now()));
    assert_eq!(stored.due, Some(minute(42)));
    for (at, event, times) in [
        (47, "sla.warning", 0),
        (48, "sla.warning", 1),
        (59, "sla.violation", 0),
        (60, "sla.violation", 1),
    ] {
        go_to(minute(at));
        world.sweep().await;
        assert_eq!(world.times(&id, event).await, times, "{event} at {at} min");
    }
}

#[tokio::test]
async fn an_item_that_fails_fills_no_page() {
    let world = World::new(EngineConfig::default(), 1);
    for n in 0..150u32 {
        let item = NewItem {
            key: Key::new(format!("T#default#task#bad{n}"), "0"),
            kind: "task".into(),
            schema: if n % 2 == 0 { 1 } else { 9 },
            body: json!({"n": n}).to_string().into_bytes().into(),
            list: None,
            list2: None,
            due: Some(world.clock.now()),
            expires: None,
        };
        let writes = vec![Write::Put { item, expect: Precondition::Absent }];
        world.store.commit(Commit { id: WriteId(n.into()), writes }).await.unwrap();
    }
    let swept = world.sweeper().sweep(1_000).await.unwrap();
    assert_eq!((swept.failed, swept.changed), (150, 0));
    let again = world.sweeper().sweep(1_000).await.unwrap();
    assert_eq!(again.looked_at, 0, "they were pushed forward");
    for item in world.store.items().iter().filter(|item| *item.kind == *"task") {
        assert!(item.body.starts_with(b"{\"n\":") && [1, 9].contains(&item.schema), "{item:?}");
    }
}

#[tokio::test]
async fn an_item_whose_check_panics_is_pushed_forward() {
    let world = World::new(EngineConfig::default(), 1);
    let (good, bad) = (world.create(Priority::P2).await, world.create(Priority::P1).await);
    world.clock.advance(Duration::from_secs(16 * 60));
    let lanes = Arc::new(MemoryLanes::new());
    lanes.break_off_at(Priority::P1);
    let sweeper = Sweeper::new(world.core.clone(), lanes);
    let swept = sweeper.sweep(100).await.unwrap();
    assert_eq!((swept.failed, swept.changed), (1, 1));
    assert_eq!(world.times(&good, "offered").await, 1);
    assert!(world.stored(&bad).await.due.unwrap() > world.clock.now(), "it fills no page");
    // It continues once the lanes respond.
    world.clock.advance(Duration::from_secs(301));
    world.sweep().await;
    assert_eq!(world.times(&bad, "offered").await, 1);
}

/// The sweeper requests a replay, repeats the request while no recorder answers, and counts
/// parked items.
#[tokio::test]
async fn parked_items_are_requested_and_counted() {
    let world = World::new(EngineConfig::default(), 1);
    let all: Vec<ToPark> = (0..3)
        .map(|n| ToPark {
            partition: format!("T#default#task#{n}").into(),
            first: Some(1),
            last: 1,
            unsent: None,
        })
        .collect();
    let parking = world.core.parking();
    parking.park(&tenant(), &all, "no ledger").await.unwrap();
    let asked = async || parking.tenant(&tenant()).await.unwrap().unwrap();
    world.sweep().await;
    assert!(!asked().await.value.is_asked(), "not at once");
    world.clock.advance(Duration::from_secs(5));
    let swept = world.sweeper().sweep(100).await.unwrap();
    assert_eq!((swept.failed, swept.parked.items, swept.parked.tenants), (0, 3, 1));
    let first = asked().await;
    assert!(first.value.is_asked());
    // One change per minute for the recorder, until a request is answered.
    for minute in 1..4 {
        world.clock.advance(Duration::from_secs(60));
        world.sweep().await;
        assert_eq!(asked().await.version, first.version + minute);
    }
    let question = asked().await.value.asked;
    parking.answer(&tenant(), question, Replayed::default()).await.unwrap();
    let answered = asked().await;
    world.clock.advance(Duration::from_secs(5));
    world.sweep().await;
    assert_eq!(asked().await.version, answered.version, "later, where nothing was achieved");
}

#[tokio::test]
async fn a_resume_whose_message_was_lost_is_enqueued_again() {
    let world = World::new(EngineConfig::default(), 1);
    let id = world.create(Priority::P3).await;
    let fence = world.claim(&id).await.unwrap().value.fence;
    let resume_at = world.clock.now().plus(Duration::from_secs(600));
    let ending = RunResult::Suspended { resume_at, note: "the build runs".into() };
    world.end(&id, fence, ending).await.unwrap();
    // Two minutes of grace after the resume time.
    world.clock.advance(Duration::from_secs(719));
    world.sweep().await;
    assert_eq!(world.times(&id, "offered").await, 0);
    world.clock.advance(Duration::from_secs(1));
    world.sweep().await;
    assert_eq!(world.times(&id, "offered").await, 1);
    let fence = world.claim(&id).await.unwrap().value.fence;
    world.end(&id, fence, done()).await.unwrap();
    world.assert_nothing_due();
}
