//! One person counts as one person: however their name is spelled, whichever keys they created,
//! and whoever retries their task.

use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_core::service::{
    FullApproval, Governance, LinkDecision, LinkUse, NewTask, ServiceError,
};
use watchbill_domain::{ApprovalId, ApprovalStatus, Caller, Priority, Role, TaskId, TaskType};
use watchbill_governance::Policy;

use crate::common::{World, caller, new_task, tenant};

fn world(rules: EngineConfig, quorum: u8) -> World {
    let mut world = World::new(rules);
    let policy = Policy { quorum, ..Policy::default() };
    world.core = world.core.governed_by(Governance::fixed(policy));
    world
}

async fn gated(world: &World) -> (TaskId, ApprovalId) {
    let id = world.create(new_task(TaskType::Faq, Priority::P0)).await;
    (id.clone(), ApprovalId::of(&id, 1))
}

/// A key created by someone, as the API identifies its bearer.
async fn made(world: &World, by: &Caller, name: &str) -> Caller {
    let (_, key) = world.core.keys().create(by, &tenant(), name, Role::Admin).await.unwrap();
    Caller { made_by: key.made_by, ..caller(name) }
}

fn refused(answer: &Result<FullApproval, ServiceError>) -> bool {
    matches!(answer, Err(ServiceError::Forbidden { .. } | ServiceError::Conflict { .. }))
}

#[tokio::test]
async fn nobody_approves_their_own_by_another_spelling_or_key() {
    let world = world(EngineConfig::default(), 1);
    let (_, approval) = gated(&world).await;
    let minted = made(&world, &caller("alex"), "helper").await;
    let again = made(&world, &minted, "helper-2").await;
    assert_eq!(again.made_by.as_deref(), Some("alex"), "the root of all");
    for own in [caller("Alex"), caller(" alex "), caller("\u{ff41}lex"), minted, again] {
        let answer = world.core.approvals().approve(&own, &approval).await;
        assert!(matches!(answer, Err(ServiceError::Forbidden { .. })), "{own:?}: {answer:?}");
    }
    world.core.approvals().approve(&caller("kim"), &approval).await.unwrap();
}

#[tokio::test]
async fn what_a_made_key_submits_its_maker_does_not_approve() {
    let world = world(EngineConfig::default(), 1);
    let ci = made(&world, &caller("kim"), "ci").await;
    let new = NewTask {
        created_by: ci.name.clone(),
        also_requested_by: ci.made_by.clone().into_iter().collect(),
        ..new_task(TaskType::Faq, Priority::P0)
    };
    let id = world.create(new).await;
    let approval = ApprovalId::of(&id, 1);
    assert!(refused(&world.core.approvals().approve(&caller("kim"), &approval).await));
    world.core.approvals().approve(&caller("sam"), &approval).await.unwrap();
}

#[tokio::test]
async fn a_quorum_counts_people() {
    let world = world(EngineConfig::default(), 2);
    let (_, approval) = gated(&world).await;
    let minted = made(&world, &caller("kim"), "deputy").await;
    let other = made(&world, &caller("KIM"), "deputy-2").await;
    world.core.approvals().approve(&minted, &approval).await.unwrap();
    for same in [caller("deputy"), caller("Deputy"), caller("kim"), other] {
        let answer = world.core.approvals().approve(&same, &approval).await;
        assert!(matches!(answer, Err(ServiceError::Conflict { .. })), "{same:?}: {answer:?}");
    }
    let done = world.core.approvals().approve(&caller("sam"), &approval).await.unwrap().approval;
    assert_eq!((done.status, done.votes.len()), (ApprovalStatus::Approved, 2));
}

#[tokio::test]
async fn the_first_requester_does_not_approve_a_retry() {
    let world = world(EngineConfig::default(), 1);
    let (first, _) = gated(&world).await;
    let mut last = first;
    for who in ["sam", "joe"] {
        world.core.tasks().cancel(&caller(who), &last, None).await.unwrap();
        last = world.core.tasks().retry(&caller(who), &last).await.unwrap().task.id;
    }
    let part = NewTask {
        parent: Some(last.clone()),
        created_by: "worker".into(),
        ..new_task(TaskType::Faq, Priority::P0)
    };
    let part = world.create(part).await;
    for task in [&last, &part] {
        let approval = ApprovalId::of(task, 1);
        for asked in ["alex", "sam", "joe", "ALEX"] {
            let answer = world.core.approvals().approve(&caller(asked), &approval).await;
            assert!(matches!(answer, Err(ServiceError::Forbidden { .. })), "{asked}: {answer:?}");
        }
        world.core.approvals().approve(&caller("kim"), &approval).await.unwrap();
    }
}

#[tokio::test]
async fn a_shared_link_identifies_no_one() {
    for (approve_own, quorum, may) in [(false, 1, false), (true, 2, false), (true, 1, true)] {
        let world = world(EngineConfig { approve_own, ..EngineConfig::default() }, quorum);
        let (_, approval) = gated(&world).await;
        let plan_hash =
            world.core.approvals().get(&tenant(), &approval).await.unwrap().approval.plan_hash;
        let link = LinkUse {
            nonce: "01".into(),
            plan_hash,
            to: "on-call".into(),
            expires: world.clock.now().plus(Duration::from_secs(60)),
        };
        let decision = LinkDecision::Approve;
        let answer =
            world.core.approvals().decide_by_link(&tenant(), &approval, &link, decision).await;
        assert_eq!(answer.is_ok(), may, "{approve_own} {quorum}: {answer:?}");
        if !may {
            assert!(!world.core.approvals().is_link_used(&tenant(), "01").await.unwrap());
            let decision = LinkDecision::Reject { reason: None };
            world
                .core
                .approvals()
                .decide_by_link(&tenant(), &approval, &link, decision)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn no_key_is_named_like_the_system_or_like_another() {
    let world = world(EngineConfig::default(), 1);
    let root = caller("root");
    for name in ["system", "Scheduler", "on-call", "ops", "ops_agent", "watchbill"] {
        let answer = world.core.keys().create(&root, &tenant(), name, Role::User).await;
        assert!(matches!(answer, Err(ServiceError::Invalid { .. })), "{name}");
    }
    world.core.keys().create(&root, &tenant(), "kim", Role::User).await.unwrap();
    let twice = world.core.keys().create(&root, &tenant(), "KIM", Role::User).await;
    assert!(matches!(twice, Err(ServiceError::Conflict { .. })));
}
