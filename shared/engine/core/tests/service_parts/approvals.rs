//! Tests of concurrent decisions on approvals.

use std::time::Duration;

use futures_util::future::join_all;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_core::service::ServiceError;
use watchbill_domain::{ApprovalId, ApprovalStatus, Priority, Status, TaskType};

use crate::common::{World, caller, new_task, tenant, whats};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Approve,
    Reject,
    Expire,
    Cancel,
}

/// `Ok`: this call took effect.
async fn act(world: &World, act: Act, id: &ApprovalId, pause: u64) -> Result<(), ServiceError> {
    for _ in 0..pause {
        tokio::task::yield_now().await;
    }
    let task = world.core.approvals().get(&tenant(), id).await?.approval.task_id;
    match act {
        Act::Approve => world.core.approvals().approve(&caller("kim"), id).await.map(drop),
        Act::Reject => world.core.approvals().reject(&caller("sam"), id, None).await.map(drop),
        Act::Cancel => world.core.tasks().cancel(&caller("alex"), &task, None).await.map(drop),
        Act::Expire => {
            let expired = world.core.approvals().escalate_or_expire(&tenant(), id).await?;
            let message = "not by this call".to_owned();
            if expired { Ok(()) } else { Err(ServiceError::Conflict { message }) }
        }
    }
}

/// Approve, reject, expire and cancel concurrently, while the deadline passes.
#[tokio::test]
async fn one_decision_wins_and_task_and_approval_agree() {
    let mut winners = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let world = World::flaky(EngineConfig::default(), seed, 0);
        let task = world.create(new_task(TaskType::Faq, Priority::P0)).await;
        let id = ApprovalId::of(&task, 1);
        let whole = world.core.rules().decide_within;
        let acts = [Act::Approve, Act::Reject, Act::Expire, Act::Cancel, Act::Approve, Act::Reject];
        let answers = async {
            let one =
                |(n, what): (usize, &Act)| act(&world, *what, &id, (seed * 7 + n as u64 * 5) % 23);
            join_all(acts.iter().enumerate().map(one)).await
        };
        let deadline = async {
            for _ in 0..seed % 29 {
                tokio::task::yield_now().await;
            }
            world.clock.advance(whole + Duration::from_millis(1));
        };
        let (answers, ()) = tokio::join!(answers, deadline);
        // A final check, as the sweeper makes.
        let late = act(&world, Act::Expire, &id, 0).await;
        let won: Vec<Act> = acts
            .iter()
            .chain([&Act::Expire])
            .zip(answers.iter().chain([&late]))
            .filter_map(|(act, answer)| match answer {
                Ok(()) => Some(*act),
                Err(ServiceError::Conflict { .. }) => None,
                Err(error) => panic!("seed {seed}: {act:?}: {error}"),
            })
            .collect();
        let approval = world.core.approvals().get(&tenant(), &id).await.unwrap().approval;
        let stored = world.stored(&task).await;
        let whats = whats(&stored);
        let agreed = match (&won[..], approval.status) {
            ([Act::Approve], ApprovalStatus::Approved) => whats == ["created", "approved"],
            // Approved and then cancelled: the cancel is not a decision on the approval any more.
            (
                [Act::Approve, Act::Cancel] | [Act::Cancel, Act::Approve],
                ApprovalStatus::Approved,
            ) => whats == ["created", "approved", "cancelled"],
            ([Act::Reject], ApprovalStatus::Rejected) => whats == ["created", "rejected"],
            ([Act::Expire], ApprovalStatus::Expired) => whats == ["created", "expired"],
            ([Act::Cancel], ApprovalStatus::Cancelled) => whats == ["created", "cancelled"],
            _ => false,
        };
        assert!(agreed, "seed {seed}: {won:?} won, {:?}, {whats:?}", approval.status);
        winners.insert(format!("{won:?}"));
        if stored.value.status.is_terminal() {
            world.assert_nothing_due();
        }
    }
    assert!(winners.len() >= 4, "the seeds came to these ends only: {winners:?}");
}

#[tokio::test]
async fn what_one_submitted_another_approves() {
    let world = World::new(EngineConfig::default());
    let task = world.create(new_task(TaskType::Faq, Priority::P1)).await;
    let id = ApprovalId::of(&task, 1);
    let own = world.core.approvals().approve(&caller("alex"), &id).await;
    assert!(matches!(own, Err(ServiceError::Forbidden { .. })), "{own:?}");
    let approval = world.core.approvals().approve(&caller("kim"), &id).await.unwrap().approval;
    assert_eq!(approval.use_by, Some(world.clock.now().plus(world.core.rules().use_within)));
    let stored = world.stored(&task).await;
    let proof = stored.value.approval.unwrap();
    assert_eq!((proof.proof, proof.approved_by), (Some(approval.plan_hash), Some("kim".into())));
    assert_eq!(stored.value.status, Status::Assigned);
    let pending = world.core.approvals().pending(&tenant(), 10, None).await.unwrap();
    let history = world.core.approvals().history(&tenant(), 10, None).await.unwrap();
    assert_eq!((pending.entries.len(), history.entries.len()), (0, 1));
}
