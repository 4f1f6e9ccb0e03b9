//! Tasks of agents whose work is not part of this build: blocked at once, and claimable by any
//! worker.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::{Command, EngineConfig, NOT_BUILT, Rejection, VersionedAuthorization};
use watchbill_core::ports::{Topic, Wake as _};
use watchbill_core::service::{
    CommandError, Core, NewTask, Ports, ServiceError, StatusChange, TaskFilter,
};
use watchbill_domain::{Agent, ApprovalId, Priority, Status, TaskId, TaskType};

use crate::common::{World, caller, is, new_task, plain, tenant, whats};

/// Rules under which the ops agent is one that is not built.
fn rules() -> EngineConfig {
    EngineConfig { not_built: [Agent::Ops].into(), ..EngineConfig::default() }
}

/// Another build on the store of this one.
fn of_these_rules(world: &World) -> Core {
    let ports = Ports {
        store: world.script.clone(),
        blobs: world.blobs.clone(),
        clock: world.clock.clone(),
        entropy: world.core.entropy().clone(),
        wake: world.wake.clone(),
    };
    Core::new(ports, Arc::new(rules()), 1)
}

fn to(status: Status) -> StatusChange {
    StatusChange { status, error: None, result: None }
}

/// What a worker finds that looks for work of the ops agent.
async fn found(world: &World, limit: usize) -> Vec<TaskId> {
    let filter = TaskFilter {
        status: Some(Status::Assigned),
        agent: Some(Agent::Ops),
        claimable: true,
        ..TaskFilter::default()
    };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = world.core.tasks().list(&tenant(), &filter, limit, cursor).await.unwrap();
        found.extend(page.entries.into_iter().map(|task| task.task.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn it_is_blocked_at_once_and_a_worker_may_claim_it() {
    let world = World::new(rules());
    let topic = Topic::External(tenant());
    let before = world.wake.mark(&topic);
    let id = world.create(plain()).await;
    assert_ne!(world.wake.mark(&topic), before, "who waits for work is woken");
    let stored = world.stored(&id).await.value;
    assert_eq!((stored.status, stored.assignment, stored.not_built), (Status::Blocked, 0, true));
    let why = stored.error.unwrap();
    assert!(why.starts_with(NOT_BUILT) && why.contains("EXTERNAL_AGENTS=ops"), "{why}");
    let told: Vec<_> = stored.log[0].events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(told, ["task.created", "task.blocked"]);

    assert_eq!(found(&world, 10).await, std::slice::from_ref(&id));
    world.core.tasks().set_status(&caller("a"), &id, to(Status::InProgress)).await.unwrap();
    let foreign = world.core.tasks().set_status(&caller("b"), &id, to(Status::InProgress)).await;
    assert!(matches!(foreign, Err(ServiceError::Conflict { .. })), "{foreign:?}");
    let claimed = world.stored(&id).await.value;
    assert_eq!((claimed.not_built, claimed.error), (false, None));
    assert!(found(&world, 10).await.is_empty());
    world.core.tasks().set_status(&caller("a"), &id, to(Status::Completed)).await.unwrap();
    assert_eq!(whats(&world.stored(&id).await), ["created", "claimed", "completed"]);
    world.assert_nothing_due();
}

#[tokio::test]
async fn it_is_ended_in_one_step_or_given_back_to_where_it_was() {
    let world = World::new(rules());
    let id = world.create(plain()).await;
    world.core.tasks().set_status(&caller("a"), &id, to(Status::Completed)).await.unwrap();
    assert!(is(&world.stored(&id).await, Status::Completed));

    let id = world.create(plain()).await;
    world.core.tasks().set_status(&caller("a"), &id, to(Status::InProgress)).await.unwrap();
    world.clock.advance(Duration::from_secs(15 * 60 + 1));
    world.core.tasks().command(&tenant(), &id, &Command::Tick { lane_busy: false }).await.unwrap();
    let stored = world.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "returned"]);
    let told: Vec<_> = stored.value.log[2].events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(told, ["task.blocked"], "nobody here is given it");
    assert!(is(&stored, Status::Blocked) && stored.value.not_built);
    assert_eq!(found(&world, 10).await, [id]);
}

#[tokio::test]
async fn neither_an_answer_nor_a_retry_assigns_it() {
    let world = World::new(rules());
    let id = world.create(plain()).await;
    let kim = caller("kim");
    let answered = world.core.tasks().answer(&kim, &id, "yes".into()).await.unwrap_err();
    assert!(answered.to_string().contains("it waits for an external worker"), "{answered}");
    let retried = world.core.tasks().retry(&kim, &id).await.unwrap_err();
    assert!(retried.to_string().contains("its agent is not part of this build"), "{retried}");
    assert_eq!(world.stored(&id).await.version, 1);
    world.core.tasks().cancel(&kim, &id, None).await.unwrap();
    world.assert_nothing_due();
}

/// Gates apply as to any other task.
#[tokio::test]
async fn a_gate_comes_first_and_its_approval_is_good_for_the_worker() {
    let world = World::new(rules());
    let id = world.create(new_task(TaskType::Monitor, Priority::P0)).await;
    assert!(is(&world.stored(&id).await, Status::Pending));
    assert!(found(&world, 10).await.is_empty());
    let topic = Topic::External(tenant());
    let before = world.wake.mark(&topic);
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&id, 1)).await.unwrap();
    assert_ne!(world.wake.mark(&topic), before, "who waits for work is woken");
    let stored = world.stored(&id).await.value;
    assert_eq!((stored.status, stored.not_built), (Status::Blocked, true));
    let told: Vec<_> = stored.log[1].events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(told, ["approval.approved", "task.blocked"]);
    world.core.tasks().set_status(&caller("a"), &id, to(Status::InProgress)).await.unwrap();
    assert!(is(&world.stored(&id).await, Status::InProgress));
}

/// As after an upgrade: earlier builds sent such tasks to a lane.
#[tokio::test]
async fn a_lane_message_of_an_older_build_blocks_it() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let core = of_these_rules(&world);
    let claim = |assignment, version| Command::Claim {
        agent: Agent::Ops,
        owner: "lambda:1".into(),
        assignment,
        authorization: VersionedAuthorization::granted(version),
    };
    core.tasks().command(&tenant(), &id, &claim(1, 1)).await.unwrap();
    let stored = world.stored(&id).await;
    assert!(is(&stored, Status::Blocked) && stored.value.not_built && stored.value.fence == 0);
    let again = core.tasks().command(&tenant(), &id, &claim(1, 2)).await;
    let Err(CommandError::Rejected { rejection: Rejection::Illegal { .. }, .. }) = again else {
        panic!("{again:?}");
    };
}

/// No process consumes that lane any more: without this check, unclaimed offers would end the
/// task as undeliverable.
#[tokio::test]
async fn an_offer_of_an_older_builds_task_blocks_it() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let core = of_these_rules(&world);
    world.clock.advance(core.rules().offer_every + Duration::from_secs(1));
    core.tasks().command(&tenant(), &id, &Command::Tick { lane_busy: false }).await.unwrap();
    let stored = world.stored(&id).await.value;
    assert_eq!((stored.status, stored.not_built), (Status::Blocked, true));
    assert_eq!(found(&world, 10).await, [id]);
}

#[tokio::test]
async fn workers_find_assigned_tasks_then_not_built_ones() {
    let older = World::new(EngineConfig::default());
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.insert(0, older.create(plain()).await);
        older.clock.advance(Duration::from_secs(1));
    }
    let core = of_these_rules(&older);
    let mut blocked = Vec::new();
    for _ in 0..4 {
        blocked.insert(0, core.tasks().create(plain()).await.unwrap().task.task.id);
        older.clock.advance(Duration::from_secs(1));
    }
    // Another agent's tasks, and blocked ones for other reasons, are not among them.
    let other = NewTask { task_type: TaskType::Faq, ..plain() };
    core.tasks().create(other).await.unwrap();
    let asks = older.create(plain()).await;
    older.core.tasks().set_status(&caller("a"), &asks, to(Status::Blocked)).await.unwrap();
    wanted.extend(blocked);
    assert_eq!(found(&older, 50).await, wanted);
    // In pages of two: the third assigned task and the first blocked one share a page.
    assert_eq!(found(&older, 2).await, wanted);
}
