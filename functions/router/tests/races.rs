//! Task references routed from a feed that repeats itself, to lanes that lose responses.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::VersionedAuthorization;
use watchbill_core::decide::{Command, EngineConfig, Rejection, RunResult};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock as _, LaneMessage};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::Governance;
use watchbill_core::service::{CommandError, Core, NewTask};
use watchbill_domain::{Body, Outcome, Priority, Status, TaskId, TenantId};
use watchbill_governance::Policy;
use watchbill_router::{Router, refill};
use watchbill_testkit::{FakeClock, MemoryLanes, MemoryStore, a_task, ports_over};

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    lanes: Arc<MemoryLanes>,
    core: Core,
    router: Router,
}

/// A core without gates.
fn open(core: Core) -> Core {
    core.governed_by(Governance::fixed(Policy::without_gates()))
}

impl World {
    fn new(rules: EngineConfig) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let ports = ports_over(store.clone(), clock.clone(), 1);
        let lanes = Arc::new(MemoryLanes::new());
        let router = Router::new(lanes.clone(), clock.clone());
        Self { store, clock, lanes, core: open(Core::new(ports, Arc::new(rules), 1)), router }
    }

    async fn create(&self, priority: Priority) -> TaskId {
        let new = NewTask { priority, ..a_task() };
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    async fn claim(&self, message: &LaneMessage) -> Result<StoredTask, CommandError> {
        let stored = self.core.tasks().stored(&message.tenant, &message.task_id).await?;
        let command = Command::Claim {
            authorization: VersionedAuthorization::granted(
                stored.map_or(0, |stored| stored.version),
            ),
            agent: message.agent,
            owner: "one".into(),
            assignment: message.assignment,
        };
        self.core.tasks().command(&message.tenant, &message.task_id, &command).await
    }

    async fn end(&self, id: &TaskId, fence: u64, ending: RunResult) {
        let (events, notes, outcome) = (Vec::new(), Vec::new(), Outcome::default());
        let command = Command::End { fence, ending, events, notes, outcome };
        self.core.tasks().command(&TenantId::default(), id, &command).await.unwrap();
    }

    fn changes(&self) -> Vec<Change> {
        self.store.changes(0, usize::MAX).into_iter().map(|(_, change)| change).collect()
    }

    /// Claims and completes every message in the lanes; returns the number of runs.
    async fn work(&self) -> usize {
        let mut runs = 0;
        for (message, _) in self.lanes.take_all() {
            if let Ok(claimed) = self.claim(&message).await {
                let done = RunResult::Succeeded { result: Body::default() };
                self.end(&message.task_id, claimed.value.fence, done).await;
                runs += 1;
            }
        }
        runs
    }
}

#[tokio::test]
async fn feed_repeated_and_replayed_runs_each_task_once() {
    let world = World::new(EngineConfig::default());
    for n in 0..20 {
        world.create(Priority::ALL[n % 4]).await;
    }
    world.router.route(&world.changes()).await.unwrap();
    let priorities: Vec<Priority> =
        world.lanes.take_all().into_iter().map(|(message, _)| message.priority).collect();
    assert_eq!(priorities.len(), 20);
    assert!(priorities.is_sorted(), "P0 first in a batch: {priorities:?}");
    let mut runs = 0;
    for _ in 0..3 {
        let mut changes = world.changes();
        changes.reverse();
        world.router.route(&changes).await.unwrap();
        runs += world.work().await;
    }
    assert_eq!(runs, 20);
    // The history again, a day later: no open task is left to enqueue.
    world.clock.advance(Duration::from_secs(24 * 3_600));
    world.router.route(&world.changes()).await.unwrap();
    assert!(world.lanes.is_empty());
    assert!(world.store.items().iter().all(|item| item.due.is_none()), "nothing is due");
}

#[tokio::test]
async fn router_dies_after_sending_and_the_second_reference_loses_at_claim() {
    let world = World::new(EngineConfig::default());
    let id = world.create(Priority::P2).await;
    world.lanes.lose_answers(1);
    let answer = world.router.route(&world.changes()).await;
    assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
    world.router.route(&world.changes()).await.unwrap();
    let pointers = world.lanes.take_all();
    assert_eq!(pointers.len(), 2);
    assert_eq!(pointers[0], pointers[1]);
    let first = world.claim(&pointers[0].0).await.unwrap();
    let second = world.claim(&pointers[1].0).await;
    assert!(matches!(
        second,
        Err(CommandError::Rejected { rejection: Rejection::Held { .. }, .. })
    ));
    world.end(&id, first.value.fence, RunResult::Succeeded { result: Body::default() }).await;
    let late = world.claim(&pointers[1].0).await;
    assert!(matches!(
        late,
        Err(CommandError::Rejected {
            rejection: Rejection::Illegal { status: Status::Completed, .. },
            ..
        })
    ));
}

#[tokio::test]
async fn a_task_reference_of_an_older_assignment_claims_nothing() {
    let world = World::new(EngineConfig::default());
    let id = world.create(Priority::P2).await;
    world.router.route(&world.changes()).await.unwrap();
    let old = world.lanes.take_all().remove(0).0;
    let run = world.claim(&old).await.unwrap();
    let again =
        RunResult::Failed { error: "no route".into(), retry: Some(Duration::from_secs(30)) };
    world.end(&id, run.value.fence, again).await;
    world.router.route(&world.changes().split_off(2)).await.unwrap();
    let (new, delay) = world.lanes.take_all().remove(0);
    assert_eq!((new.assignment, delay), (2, Duration::from_secs(30)));
    world.clock.advance(delay);
    let stale = world.claim(&old).await;
    assert!(matches!(
        stale,
        Err(CommandError::Rejected {
            rejection: Rejection::StaleAssignment { asked: 1, current: 2 },
            ..
        })
    ));
    world.claim(&new).await.unwrap();
}

#[tokio::test]
async fn lanes_that_accept_nothing_lose_nothing() {
    let world = World::new(EngineConfig::default());
    world.create(Priority::P2).await;
    world.lanes.refuse_next(1);
    let answer = world.router.route(&world.changes()).await;
    assert!(matches!(answer, Err(HandlerError::Retry { .. })), "{answer:?}");
    assert!(world.lanes.is_empty());
    world.router.route(&world.changes()).await.unwrap();
    assert_eq!(world.work().await, 1);
}

#[tokio::test]
async fn tasks_awaiting_a_person_or_an_external_worker_are_not_enqueued() {
    let outside = [watchbill_domain::Agent::Ops].into();
    let world = World::new(EngineConfig { external: outside, ..EngineConfig::default() });
    world.create(Priority::P0).await;
    world.create(Priority::P2).await;
    world.router.route(&world.changes()).await.unwrap();
    assert!(world.lanes.is_empty());
}

#[tokio::test]
async fn unreadable_items_do_not_block_others() {
    let world = World::new(EngineConfig::default());
    world.create(Priority::P2).await;
    let other = world.create(Priority::P2).await;
    let mut changes = world.changes();
    // As after a rollback: the item is due, so the sweeper of a build that can read it enqueues
    // it.
    changes[0].image.as_mut().unwrap().schema = 9;
    world.router.route(&changes).await.unwrap();
    let offered = world.lanes.take_all();
    assert_eq!(offered.iter().map(|(of, _)| &of.task_id).collect::<Vec<_>>(), [&other]);
    changes[0].image.as_mut().unwrap().schema = 1;
    changes[0].image.as_mut().unwrap().body = b"{".to_vec().into();
    world.router.route(&changes).await.unwrap();
    assert_eq!(world.lanes.take_all().len(), 1);
}

/// Lanes in memory are empty after a start: every open task is enqueued, those whose process
/// died at once.
#[tokio::test]
async fn refilled_lanes_hold_all_open_tasks_and_nothing_else() {
    let world = World::new(EngineConfig::default());
    let assigned = world.create(Priority::P2).await;
    let running = world.create(Priority::P1).await;
    let done = world.create(Priority::P3).await;
    world.router.route(&world.changes()).await.unwrap();
    for (message, _) in world.lanes.take_all() {
        if message.task_id != assigned {
            let fence = world.claim(&message).await.unwrap().value.fence;
            if message.task_id == done {
                world.end(&done, fence, RunResult::Succeeded { result: Body::default() }).await;
            }
        }
    }
    // The next process has a new epoch, in which no lease of the old one is valid.
    let ports = ports_over(world.store.clone(), world.clock.clone(), 2);
    let core = open(Core::new(ports, Arc::new(EngineConfig::default()), 2));
    let offered = refill(core.clone(), world.lanes.clone()).await.unwrap();
    let mut found: Vec<TaskId> =
        world.lanes.take_all().into_iter().map(|(message, _)| message.task_id).collect();
    found.sort();
    let mut wanted = vec![assigned, running.clone()];
    wanted.sort();
    assert_eq!((offered, found), (2, wanted));
    let task = core.tasks().stored(&TenantId::default(), &running).await.unwrap().unwrap().value;
    let version =
        core.tasks().stored(&TenantId::default(), &running).await.unwrap().unwrap().version;
    let (agent, authorization) = (task.agent, VersionedAuthorization::granted(version));
    let claim = Command::Claim { agent, owner: "two".into(), assignment: 1, authorization };
    let taken = core.tasks().command(&TenantId::default(), &running, &claim).await.unwrap();
    assert_eq!(taken.value.fence, 2, "the dead process's lease is void at once");
}

/// A write that changes only the due time either requests an enqueue or does not; a task
/// reference already in the queue is not sent again.
#[tokio::test]
async fn of_changes_without_log_entries_only_enqueues_are_routed() {
    let world = World::new(EngineConfig::default());
    let id = world.create(Priority::P2).await;
    let command = async |command: Command| {
        world.core.tasks().command(&TenantId::default(), &id, &command).await.unwrap();
        world.changes().pop().unwrap()
    };
    let postponed = command(Command::Postpone).await;
    world.router.route(&[postponed]).await.unwrap();
    assert!(world.lanes.is_empty(), "it is only looked at later");
    world.clock.advance(Duration::from_secs(15 * 60));
    let excused = command(Command::Tick { lane_busy: true }).await;
    assert_eq!(excused.version, 3);
    world.router.route(&[excused]).await.unwrap();
    assert_eq!(world.lanes.take_all().len(), 1, "a lost pointer is made good");
    // The image may be newer than the change: the task's creation is still routed.
    let all = world.changes();
    let newest = all.last().unwrap().image.clone();
    let first = Change { image: newest, ..all[0].clone() };
    world.router.route(&[first]).await.unwrap();
    assert_eq!(world.work().await, 1);
}
