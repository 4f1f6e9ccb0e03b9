//! Tests of claims, endings, leases and fences.

use std::time::Duration;

use serde_json::json;
use watchbill_core::decide::{Command, EngineConfig, Rejection, RunResult};
use watchbill_core::ports::Clock as _;
use watchbill_core::service::{
    CommandError, FullTask, NewTask, ServiceError, StatusChange, StatusSet, TimelineKind,
    WorkerClaim,
};
use watchbill_domain::{
    Outcome, Priority, ReputationEvent, ScoreDelta, Status, TaskId, TaskType, Timestamp,
};

use crate::common::{
    World, caller, end, is, new_task, object, outside_rules, plain, succeeded, tenant, whats,
};

/// A concurrent cancel and ending: one wins, and the other gets a conflict.
#[tokio::test]
async fn cancel_against_complete_has_one_winner_and_the_loser_a_conflict() {
    let mut cancelled = 0;
    for seed in 0..60 {
        let world = World::flaky(EngineConfig::default(), seed, 0);
        let id = world.create(plain()).await;
        let claimed = world.claim(&id).await.unwrap();
        let kim = caller("kim");
        let (cancel, done) = tokio::join!(
            world.core.tasks().cancel(&kim, &id, None),
            world.end(&id, claimed.value.fence, succeeded()),
        );
        let stored = world.stored(&id).await;
        match (cancel, done) {
            (Ok(_), Err(CommandError::Rejected { rejection, .. })) => {
                assert!(matches!(rejection, Rejection::Illegal { status: Status::Cancelled, .. }));
                assert!(is(&stored, Status::Cancelled));
                cancelled += 1;
            }
            (Err(ServiceError::Conflict { message }), Ok(_)) => {
                assert!(message.contains("completed"), "{message}");
                assert!(is(&stored, Status::Completed));
            }
            other => panic!("seed {seed}: {other:?}"),
        }
        assert_eq!(stored.version, 3);
        world.assert_nothing_due();
    }
    assert!((1..60).contains(&cancelled), "the cancel won {cancelled} times of 60");
}

/// A task's failure reduces its agent's score once: not at each retry, and not again when
/// someone retries the task after its end.
#[tokio::test]
async fn a_failure_counts_once_however_often_it_is_retried() {
    let world = World::new(EngineConfig::default());
    let failing = |ending: RunResult, fence| {
        let reputation =
            ending.score_delta(&EngineConfig::default().reputation).into_iter().collect();
        let outcome = Outcome { reputation, ..Outcome::default() };
        Command::End { fence, ending, events: Vec::new(), notes: Vec::new(), outcome }
    };
    let mut id = world.create(plain()).await;
    let mut counted = Vec::new();
    for life in 0..3 {
        for run in 0..=3 {
            world.clock.advance(Duration::from_secs(400));
            let fence = world.claim(&id).await.unwrap().value.fence;
            let command = failing(RunResult::Failed { error: "no".into(), retry: None }, fence);
            let stored = world.core.tasks().command(&tenant(), &id, &command).await.unwrap();
            let score_delta = stored.value.log.last().unwrap().outcome.clone();
            let points: Vec<_> =
                score_delta.iter().flat_map(|o| &o.reputation).map(|e| e.1).collect();
            assert_eq!(points.len(), usize::from(run == 3), "life {life}, run {run}");
            counted.extend(points);
        }
        assert!(is(&world.stored(&id).await, Status::Failed));
        id = world.core.tasks().retry(&caller("kim"), &id).await.unwrap().task.id;
    }
    assert_eq!(counted, [-3, 0, 0]);
    // A later success counts as one.
    let fence = world.claim(&id).await.unwrap().value.fence;
    let stored = world.end(&id, fence, succeeded()).await.unwrap();
    let score_delta = stored.value.outcome.unwrap().reputation;
    assert_eq!(score_delta, [ScoreDelta(ReputationEvent::TaskSuccess, 2)]);
}

/// The ending of an external worker names the worker, so that our agent's score is unchanged.
#[tokio::test]
async fn an_external_workers_ending_is_its_own() {
    let world = World::new(outside_rules());
    for (status, event) in [
        (Status::Completed, ReputationEvent::TaskSuccess),
        (Status::Failed, ReputationEvent::TaskFailure),
    ] {
        let id = world.create(plain()).await;
        let change = StatusChange { status, error: Some("so".into()), result: None };
        world.core.tasks().set_status(&caller("ci"), &id, change).await.unwrap();
        let outcome = world.stored(&id).await.value.outcome.unwrap();
        assert_eq!(outcome.worker.as_deref(), Some("worker:ci"));
        assert_eq!(outcome.reputation[0].0, event);
    }
}

/// Two writers: one that stalled with its lease, and one that took over.
#[tokio::test]
async fn a_stale_run_is_refused_by_its_fence() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let stale = world.claim(&id).await.unwrap().value;
    world.clock.advance(Duration::from_secs(64));
    let held = world.claim(&id).await;
    assert!(matches!(held, Err(CommandError::Rejected { rejection: Rejection::Held { .. }, .. })));
    world.clock.advance(Duration::from_secs(1));
    let young = world.claim(&id).await.unwrap().value;
    assert_eq!((stale.fence, young.fence, young.lost_runs), (1, 2, 1));
    let late = world.end(&id, stale.fence, succeeded()).await;
    let Err(CommandError::Rejected { rejection, .. }) = late else { panic!("{late:?}") };
    assert_eq!(rejection, Rejection::Fenced { asked: 1, current: 2 });
    world.end(&id, young.fence, succeeded()).await.unwrap();
    assert_eq!(whats(&world.stored(&id).await), ["created", "claimed", "reclaimed", "completed"]);
    world.assert_nothing_due();
}

#[tokio::test]
async fn an_executor_that_vanishes_every_time_is_bounded() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    for _ in 0..5 {
        world.claim(&id).await.unwrap();
        world.clock.advance(Duration::from_secs(66));
    }
    assert!(is(&world.claim(&id).await.unwrap(), Status::InProgress));
    world.clock.advance(Duration::from_secs(66));
    let given_up = world.claim(&id).await.unwrap();
    assert!(is(&given_up, Status::Failed), "{:?}", given_up.value);
    assert!(given_up.value.error.unwrap().contains("vanished 6 times"));
    world.assert_nothing_due();
}

/// A clock set back does not extend a run's lease, and a clock set ahead does not end a task.
#[tokio::test]
async fn clock_back_or_ahead_the_fence_protects_the_state() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let first = world.claim(&id).await.unwrap().value;
    let begun = world.clock.now();
    world.clock.step_wall(begun.plus(Duration::from_secs(3_600)));
    let second = world.claim(&id).await.unwrap().value;
    world.clock.step_wall(begun.minus(Duration::from_secs(3_600)));
    assert!(world.end(&id, first.fence, succeeded()).await.is_err());
    world.end(&id, second.fence, succeeded()).await.unwrap();
    let timeline = world.core.tasks().timeline(&tenant(), &id).await.unwrap();
    let versions: Vec<u64> = timeline
        .iter()
        .filter(|entry| entry.kind == TimelineKind::Change)
        .filter_map(|entry| entry.version)
        .collect();
    assert_eq!(versions, [1, 2, 3, 4], "changes in the order in which they happened");
}

/// A task with many changes: its timeline has every version once, in order.
#[tokio::test]
async fn a_timeline_is_in_order_and_without_a_gap() {
    let world = World::new(EngineConfig::default());
    let id = world.create(NewTask { max_retries: Some(30), ..plain() }).await;
    for round in 0..30u64 {
        world.clock.advance(Duration::from_secs(301));
        if round == 11 {
            let back = world.clock.now().minus(Duration::from_secs(1_000));
            world.clock.step_wall(back);
            world.clock.advance(Duration::from_secs(900));
        }
        let resume = world.stored(&id).await.value.resume_at;
        let wait = resume.unwrap_or(world.clock.now()).since(world.clock.now());
        world.clock.advance(wait);
        let fence = world.claim(&id).await.unwrap().value.fence;
        let ending = RunResult::Failed { error: "no route".into(), retry: None };
        world.end(&id, fence, ending).await.unwrap();
    }
    let version = world.stored(&id).await.version;
    assert_eq!(version, 61);
    let timeline = world.core.tasks().timeline(&tenant(), &id).await.unwrap();
    let changes: Vec<u64> = timeline
        .iter()
        .filter(|entry| matches!(entry.kind, TimelineKind::Change | TimelineKind::Approval))
        .filter_map(|entry| entry.version)
        .collect();
    assert_eq!(changes, (1..=version).collect::<Vec<_>>());
    assert!(world.count("task_log") >= 5, "the log overflows into items");
    let started = timeline.iter().filter(|entry| entry.what == "task.started").count();
    assert_eq!(started, 30);
}

async fn patch(
    world: &World,
    who: &str,
    id: &TaskId,
    status: Status,
) -> Result<FullTask, ServiceError> {
    let result = Some(object(json!({"found": "nothing", "by": who})));
    let change = StatusChange { status, error: None, result };
    world.core.tasks().set_status(&caller(who), id, change).await
}

#[tokio::test]
async fn an_external_worker_claims_renews_and_ends_alone() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    assert!(world.stored(&id).await.value.external);
    patch(&world, "a", &id, Status::InProgress).await.unwrap();
    for status in [Status::InProgress, Status::Completed, Status::Failed, Status::Blocked] {
        let foreign = patch(&world, "b", &id, status).await;
        assert!(matches!(foreign, Err(ServiceError::Conflict { .. })), "{status}: {foreign:?}");
    }
    world.clock.advance(Duration::from_secs(14 * 60));
    patch(&world, "a", &id, Status::InProgress).await.unwrap();
    world.clock.advance(Duration::from_secs(14 * 60));
    // Nothing is due: the holder has renewed its lease within its fifteen minutes.
    let early =
        world.core.tasks().command(&tenant(), &id, &Command::Tick { lane_busy: false }).await;
    assert!(early.is_err(), "{early:?}");
    let done = patch(&world, "a", &id, Status::Completed).await.unwrap();
    assert_eq!(done.result.unwrap()["by"], "a");
    assert!(patch(&world, "a", &id, Status::Completed).await.is_err());
    let stored = world.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "renewed", "completed"]);
    world.assert_nothing_due();
}

/// A report by one of the replicas that share the key `a`.
async fn replica(
    world: &World,
    id: &TaskId,
    status: Status,
    (worker, fence): (Option<&str>, Option<u64>),
) -> Result<StatusSet, ServiceError> {
    let change = StatusChange { status, error: None, result: None };
    let of = WorkerClaim { worker: worker.map(str::to_owned), fence };
    world.core.tasks().set_status_as(&caller("a"), id, change, of).await
}

fn refused(answer: Result<StatusSet, ServiceError>, why: &str) {
    let Err(ServiceError::Conflict { message }) = answer else { panic!("{why}: {answer:?}") };
    assert!(message.contains(why), "{message}");
}

#[tokio::test]
async fn replicas_that_share_a_key_do_not_share_a_claim() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    let claim =
        async |worker, fence| replica(&world, &id, Status::InProgress, (worker, fence)).await;
    let first = claim(Some("one"), None).await.unwrap();
    assert_eq!(first.fence, 1);
    refused(claim(Some("two"), None).await, "held by worker:a/one");
    refused(claim(None, None).await, "held by worker:a/one");
    assert_eq!(claim(Some("one"), None).await.unwrap().fence, 1, "it may say so again");
    assert_eq!(claim(Some("one"), Some(1)).await.unwrap().fence, 1);
    refused(claim(Some("one"), Some(2)).await, "fence 2 is stale");
    for status in [Status::Completed, Status::Failed, Status::Blocked] {
        refused(replica(&world, &id, status, (Some("one"), None)).await, "send the `fence`");
        refused(replica(&world, &id, status, (None, None)).await, "send the `fence`");
        refused(replica(&world, &id, status, (Some("two"), Some(1))).await, "held by worker:a/one");
        refused(replica(&world, &id, status, (Some("one"), Some(7))).await, "fence 7 is stale");
    }
    let done = replica(&world, &id, Status::Completed, (Some("one"), Some(1))).await.unwrap();
    assert_eq!(done.task.task.status, Status::Completed);
    let stored = world.stored(&id).await;
    assert_eq!(whats(&stored), ["created", "claimed", "renewed", "renewed", "completed"]);
    assert_eq!(stored.value.log.last().unwrap().by, "worker:a/one");
    let counted = stored.value.outcome.unwrap().worker;
    assert_eq!(counted.as_deref(), Some("worker:a"), "the score is the key's");
    world.assert_nothing_due();
}

#[tokio::test]
async fn a_replica_that_was_given_up_ends_nothing() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    replica(&world, &id, Status::InProgress, (Some("one"), None)).await.unwrap();
    world.clock.advance(Duration::from_secs(15 * 60 + 1));
    world.core.tasks().command(&tenant(), &id, &Command::Tick { lane_busy: false }).await.unwrap();
    assert!(is(&world.stored(&id).await, Status::Assigned));
    let second = replica(&world, &id, Status::InProgress, (Some("two"), None)).await.unwrap();
    assert_eq!(second.fence, 2);
    for status in [Status::InProgress, Status::Completed, Status::Failed, Status::Cancelled] {
        refused(replica(&world, &id, status, (Some("one"), Some(1))).await, "fence 1 is stale");
    }
    replica(&world, &id, Status::Completed, (None, Some(2))).await.unwrap();
    world.assert_nothing_due();
}

/// No other worker has begun since: the late one's work is not repeated.
#[tokio::test]
async fn a_late_ending_counts_while_nobody_else_has_claimed() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    replica(&world, &id, Status::InProgress, (Some("one"), None)).await.unwrap();
    world.clock.advance(Duration::from_secs(15 * 60 + 1));
    world.core.tasks().command(&tenant(), &id, &Command::Tick { lane_busy: false }).await.unwrap();
    replica(&world, &id, Status::Completed, (Some("one"), Some(1))).await.unwrap();
    world.assert_nothing_due();
}

#[tokio::test]
async fn a_claim_without_a_name_is_its_keys_as_before() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    replica(&world, &id, Status::InProgress, (None, None)).await.unwrap();
    replica(&world, &id, Status::InProgress, (None, None)).await.unwrap();
    refused(
        replica(&world, &id, Status::InProgress, (Some("one"), None)).await,
        "held by worker:a",
    );
    refused(replica(&world, &id, Status::Completed, (Some("one"), None)).await, "held by worker:a");
    replica(&world, &id, Status::Completed, (None, None)).await.unwrap();
    world.assert_nothing_due();
}

#[tokio::test]
async fn a_task_still_assigned_is_finished_in_one_step_by_one_of_many() {
    for seed in 0..20 {
        let world = World::flaky(EngineConfig::default(), seed, 0);
        let id = world.create(plain()).await;
        let both = futures_util::future::join_all(["a", "b", "c"].map(|who| {
            let (world, id) = (&world, &id);
            async move { patch(world, who, id, Status::Completed).await }
        }));
        let won = both.await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1, "seed {seed}");
        let stored = world.stored(&id).await;
        assert_eq!(whats(&stored), ["created", "completed"]);
        assert!(stored.value.started_at.is_some() && stored.value.fence == 1);
        world.assert_nothing_due();
    }
}

#[tokio::test]
async fn a_patch_opens_no_gate_and_sets_nobody_back() {
    let world = World::new(EngineConfig::default());
    let id = world.create(new_task(TaskType::Monitor, Priority::P0)).await;
    for status in Status::ALL.iter().filter(|status| **status != Status::Cancelled) {
        let answer = patch(&world, "a", &id, *status).await;
        assert!(matches!(answer, Err(ServiceError::Conflict { .. })), "{status}: {answer:?}");
    }
    assert_eq!(world.stored(&id).await.version, 1);
    patch(&world, "a", &id, Status::Cancelled).await.unwrap();
    world.assert_nothing_due();
}

/// An item of a newer schema waits for the newer build; nothing is decided or lost meanwhile.
#[tokio::test]
async fn a_newer_schema_is_retried_later() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let key = watchbill_core::repo::task_key(&tenant(), &id);
    super::lost_answers::rewrite(&world, &key, |item| item.schema = 2).await;
    let refused = world.core.tasks().command(&tenant(), &id, &end(1, succeeded())).await;
    assert!(
        matches!(refused, Err(CommandError::Service(ServiceError::Busy { .. }))),
        "{refused:?}"
    );
    let handler = watchbill_core::handler::HandlerError::from(
        world.core.tasks().get(&tenant(), &id).await.unwrap_err(),
    );
    assert!(matches!(handler, watchbill_core::handler::HandlerError::Retry { .. }));
}

/// The resume time that a suspended run sets, and a person who does not want to wait for it.
#[tokio::test]
async fn a_suspended_run_resumes_when_told_and_only_once() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let run = world.claim(&id).await.unwrap().value;
    let resume_at: Timestamp = world.clock.now().plus(Duration::from_secs(600));
    let ending = RunResult::Suspended { resume_at, note: "the build runs".into() };
    world.end(&id, run.fence, ending).await.unwrap();
    let early = world.claim(&id).await;
    assert!(matches!(
        early,
        Err(CommandError::Rejected { rejection: Rejection::NotYet { .. }, .. })
    ));
    world.core.tasks().retry(&caller("kim"), &id).await.unwrap();
    let again = world.core.tasks().retry(&caller("kim"), &id).await;
    assert!(again.is_ok() || matches!(again, Err(ServiceError::Conflict { .. })));
    let resumed = world.claim(&id).await.unwrap();
    assert_eq!((resumed.value.fence, resumed.value.lost_runs), (2, 0));
    world.end(&id, 2, succeeded()).await.unwrap();
    world.assert_nothing_due();
}
