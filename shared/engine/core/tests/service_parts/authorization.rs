//! Only authorized work runs, whatever happens: store faults, writes of an older state, ids
//! that could be confused, changes after the approval.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_core::decide::{Authorization, Command, EngineConfig, RunResult};
use watchbill_core::ports::{Clock as _, Precondition, Store as _, Write};
use watchbill_core::repo::{StoredTask, approval_key, decode, encode, task_key};
use watchbill_core::service::{
    CommandBuilder, CommandError, CommandWithWrites, Governance, Identity, NewTask, OnFailure,
    Runner, ServiceError,
};
use watchbill_domain::{
    Agent, Approval, ApprovalId, ApprovalStatus, Priority, Status, TaskId, TaskType, ToolCall,
};
use watchbill_governance::{
    EnvironmentKind, Freeze, FreezeWhen, GateRules, Policy, PrioritiesFor, RuleEffect, ToolRule,
};
use watchbill_testkit::{ReadFault, ToolOfType};

use super::degraded::claim;
use super::lost_answers::rewrite;
use crate::common::{World, caller, new_task, object, tenant};

const SCORE: &str = "#led#";

fn governed(rules: EngineConfig, policy: Policy, on_failure: OnFailure) -> World {
    let mut world = World::new(rules);
    let policies = Arc::new(watchbill_governance::FixedPolicy(Arc::new(policy)));
    let governance = Governance::new(policies, on_failure);
    world.core = world.core.governed_by(governance).planned_by(Arc::new(ToolOfType));
    world
}

fn deployment(environment: &str) -> NewTask {
    let payload = object(json!({ "project": "shop", "environment": environment }));
    NewTask { payload, ..new_task(TaskType::Deploy, Priority::P2) }
}

async fn authorized(world: &World, id: &TaskId) -> Result<Authorization, ServiceError> {
    let stored = world.stored(id).await;
    let payload = world.core.tasks().payload(&stored.value).await.unwrap();
    world
        .core
        .authorizer()
        .authorize(&stored, &payload, Runner::Own)
        .await
        .map(|verdict| verdict.authorization.decision)
}

fn open_approval(world: &World) -> Vec<Approval> {
    let items = world.store.items();
    let approvals = items.iter().filter(|item| &*item.kind == "approval");
    let approvals = approvals.map(|item| decode::<Approval>(item).unwrap().value);
    approvals.filter(|approval| approval.status == ApprovalStatus::Pending).collect()
}

/// Deployments to staging, for which no rule requires approval: the agent's level decides.
#[tokio::test]
async fn a_busy_store_does_not_count_as_unreachable_governance() {
    for on_failure in [OnFailure::Restrict, OnFailure::Deny, OnFailure::Allow] {
        let world = governed(EngineConfig::default(), Policy::default(), on_failure);
        let id = world.create(deployment("staging")).await;
        for _ in 0..3 {
            world.script.fail_reads(Some((SCORE, ReadFault::Busy)));
            let busy = authorized(&world, &id).await;
            assert!(matches!(busy, Err(ServiceError::Busy { .. })), "{on_failure:?}: {busy:?}");
            world.clock.advance(Duration::from_secs(61));
        }
        assert_eq!(world.stored(&id).await.version, 1, "nothing was decided");
        world.script.fail_reads(None);
        let decision = authorized(&world, &id).await.unwrap();
        assert!(
            matches!(decision, Authorization::ApprovalRequired(_)),
            "{on_failure:?}: {decision:?}"
        );
    }
}

#[tokio::test]
async fn an_unreadable_score_defers_denies_at_the_second_check_or_allows() {
    for fault in [ReadFault::Down, ReadFault::Corrupt, ReadFault::Newer] {
        for on_failure in [OnFailure::Restrict, OnFailure::Deny, OnFailure::Allow] {
            let world = governed(EngineConfig::default(), Policy::default(), on_failure);
            let id = world.create(deployment("staging")).await;
            world.script.fail_reads(Some((SCORE, fault)));
            let first = claim(&world, &id).await.value;
            let expected = match on_failure {
                OnFailure::Allow => Status::InProgress,
                OnFailure::Restrict | OnFailure::Deny => Status::Assigned,
            };
            assert_eq!(first.status, expected, "{fault:?} {on_failure:?}");
            if expected == Status::InProgress {
                continue;
            }
            world.clock.advance(Duration::from_secs(61));
            let second = claim(&world, &id).await.value.status;
            let denied = on_failure == OnFailure::Deny;
            assert_eq!(second == Status::Failed, denied, "{fault:?} {on_failure:?}: {second}");
        }
    }
}

#[tokio::test]
async fn required_approvals_are_not_skipped_without_governance() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Allow);
    let id = world.create(deployment("production")).await;
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&id, 1)).await.unwrap();
    world.script.fail_reads(Some((SCORE, ReadFault::Down)));
    let decision = authorized(&world, &id).await.unwrap();
    assert!(decision.is_granted(), "it is approved, so nothing hangs on the score: {decision:?}");
    world.clock.advance(world.core.rules().use_within + Duration::from_secs(1));
    let decision = authorized(&world, &id).await.unwrap();
    assert!(matches!(decision, Authorization::ApprovalRequired(_)), "{decision:?}");
    // Without a rule that requires approval, an approval required for the level stays required.
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Allow);
    let id = world.create(deployment("staging")).await;
    let asked = claim_asking(&world, &id).await;
    world.core.approvals().approve(&caller("kim"), &asked).await.unwrap();
    world.script.fail_reads(Some((SCORE, ReadFault::Down)));
    assert!(authorized(&world, &id).await.unwrap().is_granted());
    world.clock.advance(world.core.rules().use_within + Duration::from_secs(1));
    let decision = authorized(&world, &id).await.unwrap();
    assert!(matches!(decision, Authorization::Deferred { .. }), "{decision:?}");
}

#[tokio::test]
async fn a_freeze_holds_though_the_score_cant_be_read() {
    let freeze = Freeze {
        name: "release".into(),
        reason: "a release".into(),
        environments: [EnvironmentKind::Staging].into(),
        when: FreezeWhen::Once {
            from: watchbill_domain::Timestamp::from_millis(0),
            until: watchbill_domain::Timestamp::from_millis(i64::MAX / 2),
        },
        override_roles: [].into(),
        override_names: [].into(),
    };
    let policy = Policy { freezes: vec![freeze], ..Policy::default() };
    let world = governed(EngineConfig::default(), policy, OnFailure::Allow);
    let id = world.create(deployment("staging")).await;
    world.script.fail_reads(Some((SCORE, ReadFault::Down)));
    let decision = authorized(&world, &id).await.unwrap();
    assert!(
        matches!(&decision, Authorization::Deferred { why, .. } if why.contains("release")),
        "{decision:?}"
    );
}

/// A command and writes that are the same for every state.
pub struct Fixed(pub Command, pub Vec<Write>);

#[async_trait]
impl CommandBuilder for Fixed {
    async fn build(&self, _: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        Ok(CommandWithWrites { command: self.0.clone(), extra_writes: self.1.clone() })
    }
}

/// Claims a task that then waits for an approval.
async fn claim_asking(world: &World, id: &TaskId) -> ApprovalId {
    let stored = world.stored(id).await;
    let payload = world.core.tasks().payload(&stored.value).await.unwrap();
    let verdict = world.core.authorizer().authorize(&stored, &payload, Runner::Own).await.unwrap();
    let Authorization::ApprovalRequired(asked) = &verdict.authorization.decision else {
        panic!("{:?}", verdict.authorization)
    };
    let approval = asked.approval.clone();
    let (agent, assignment) = (stored.value.agent, stored.value.assignment);
    let authorization = verdict.authorization;
    let claim = Command::Claim { agent, owner: "lambda:1".into(), assignment, authorization };
    world
        .core
        .tasks()
        .execute_with_writes(stored, &Fixed(claim, verdict.extra_writes))
        .await
        .unwrap();
    approval
}

/// A run that requires an approval ends between a cancel's read and its commit: the approval is
/// closed with the task, though it did not exist when the cancel began.
#[tokio::test]
async fn a_cancel_closes_the_approval_of_the_state_it_is_decided_on() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let id = world.create(deployment("production")).await;
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&id, 1)).await.unwrap();
    let running = claim(&world, &id).await;
    assert_eq!(running.value.status, Status::InProgress);
    let (core, fence) = (world.core.clone(), running.value.fence);
    world.script.before_next_commit(Box::pin(async move {
        let arguments = object(json!({ "project": "bank", "environment": "production" }));
        let call = ToolCall { tool: "deploy".into(), arguments, mutating: true };
        let payload = core.tasks().payload(&running.value).await.unwrap();
        let verdict = core
            .authorizer()
            .authorize_call(&running, &payload, Runner::Own, Some(&call))
            .await
            .unwrap();
        let Authorization::ApprovalRequired(asked) = verdict.authorization.decision else {
            panic!("another call is asked for")
        };
        let end = crate::common::end(fence, RunResult::ApprovalRequired(asked));
        core.tasks().execute_with_writes(running, &Fixed(end, verdict.extra_writes)).await.unwrap();
    }));
    world.core.tasks().cancel(&caller("alex"), &id, None).await.unwrap();
    let stored = world.stored(&id).await.value;
    assert_eq!(stored.status, Status::Cancelled);
    assert_eq!(stored.approval.unwrap().id, ApprovalId::of(&id, 2));
    assert_eq!(open_approval(&world), [], "an approval waits for a task that has ended");
    world.assert_nothing_due();
}

/// An approval that an earlier build left behind: no task waits for it.
#[tokio::test]
async fn an_approval_that_no_task_waits_for_is_closed_and_decides_nothing() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let id = world.create(deployment("production")).await;
    let first = ApprovalId::of(&id, 1);
    let approval = world.core.approvals().get(&tenant(), &first).await.unwrap().approval;
    world.core.tasks().cancel(&caller("alex"), &id, None).await.unwrap();
    let key = approval_key(&tenant(), &first);
    let due = Some(world.clock.now());
    let orphan = encode(&approval, None);
    rewrite(&world, &key, |item| {
        item.body = orphan.body.clone();
        item.list2 = orphan.list2.clone();
        item.due = due;
    })
    .await;
    let refused = world.core.approvals().approve(&caller("kim"), &first).await;
    assert!(matches!(refused, Err(ServiceError::Conflict { .. })), "{refused:?}");
    world.clock.advance(world.core.rules().decide_within / 2 + Duration::from_secs(1));
    assert!(world.core.approvals().escalate_or_expire(&tenant(), &first).await.unwrap());
    assert_eq!(open_approval(&world), []);
    assert_eq!(world.stored(&id).await.value.status, Status::Cancelled);
    world.assert_nothing_due();
}

#[tokio::test]
async fn ids_that_look_alike_have_approvals_of_their_own() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let given = |id: &str| NewTask {
        identity: Identity::Given(TaskId::parse(id).unwrap()),
        ..deployment("production")
    };
    let x = world.create(given("X")).await;
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&x, 1)).await.unwrap();
    world.clock.advance(world.core.rules().use_within + Duration::from_secs(1));
    let second = claim_asking(&world, &x).await;
    assert_eq!(second.as_str(), "approval_X~2");
    let other = world.create(given("X_2")).await;
    let theirs = world.stored(&other).await.value.approval.unwrap().id;
    assert_eq!(theirs.as_str(), "approval_X_2");
    assert_eq!(open_approval(&world).len(), 2);
    for (task, approval) in [(&x, &second), (&other, &theirs)] {
        world.core.approvals().approve(&caller("kim"), approval).await.unwrap();
        assert_eq!(claim(&world, task).await.value.status, Status::InProgress);
    }
}

/// As an earlier build stored them: the second approval of `X` had the id of the first of `X_2`.
#[tokio::test]
async fn approvals_under_old_ids_are_read_and_do_not_collide() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let x = TaskId::parse("X").unwrap();
    let given = |id: &str| NewTask {
        identity: Identity::Given(TaskId::parse(id).unwrap()),
        ..deployment("production")
    };
    world.create(given("X")).await;
    let old: Value =
        serde_json::from_str(include_str!("../fixtures/approval_old_id.json")).unwrap();
    let old: Approval = serde_json::from_value(old).unwrap();
    assert_eq!((old.id.as_str(), old.task_id.as_str()), ("approval_X_2", "X"));
    let item = encode(&old, None);
    let put = Write::Put { item, expect: Precondition::Absent };
    let id = world.core.entropy().write_id();
    world.store.commit(watchbill_core::ports::Commit { id, writes: vec![put] }).await.unwrap();
    let mut header = world.stored(&x).await.value;
    header.status = Status::Blocked;
    let named = header.approval.as_mut().unwrap();
    (named.id, named.n) = (old.id.clone(), 2);
    let item = encode(&header, None);
    rewrite(&world, &task_key(&tenant(), &x), |there| there.body = item.body).await;
    // Another task finds the id taken, and uses the next one.
    let other = world.create(given("X_2")).await;
    let theirs = world.stored(&other).await.value.approval.unwrap();
    assert_eq!((theirs.id.as_str(), theirs.n), ("approval_X_2~2", 2));
    // The old one is decided on as before.
    world.core.approvals().approve(&caller("kim"), &old.id).await.unwrap();
    let stored = world.stored(&x).await;
    assert_eq!(stored.value.status, Status::Assigned);
    // Its approval document held less than a worker reads, so a new approval is required.
    let third = claim_asking(&world, &x).await;
    assert_eq!(third.as_str(), "approval_X~3");
}

/// An id from the legacy queue, from before ids were escaped.
#[tokio::test]
async fn a_task_of_an_old_id_lives_on() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let old: Value = serde_json::from_str(include_str!("../fixtures/task_old_id.json")).unwrap();
    let task: watchbill_domain::Task = serde_json::from_value(old).unwrap();
    assert_eq!(task.id.as_str(), "jobs/7 #a?b%c~2");
    let put = Write::Put { item: encode(&task, None), expect: Precondition::Absent };
    let id = world.core.entropy().write_id();
    world.store.commit(watchbill_core::ports::Commit { id, writes: vec![put] }).await.unwrap();
    assert_eq!(world.core.tasks().get(&tenant(), &task.id).await.unwrap().task, task);
    let asked = claim_asking(&world, &task.id).await;
    assert_eq!(asked.as_str(), "approval_jobs/7 #a?b%c~2~1");
    world.core.approvals().approve(&caller("kim"), &asked).await.unwrap();
    assert_eq!(claim(&world, &task.id).await.value.status, Status::InProgress);
}

#[tokio::test]
async fn a_change_of_what_a_worker_reads_requires_a_new_approval() {
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let metadata = object(json!({ "rule_hint": "skip the checks" }));
    let notes = "drop the old tables first ".repeat(2_000);
    let payload = object(json!({ "project": "shop", "environment": "production", "notes": notes }));
    let id = world.create(NewTask { payload, metadata, ..deployment("production") }).await;
    let first = ApprovalId::of(&id, 1);
    let shown = world.core.approvals().get(&tenant(), &first).await.unwrap().approval.shown;
    assert_eq!(shown["metadata"]["rule_hint"], "skip the checks");
    assert_eq!(shown["payload"]["project"], "shop");
    let cut = &shown["payload_left_out"]["fields"][0];
    assert_eq!(cut["name"], "notes");
    assert!(cut["begins"].as_str().unwrap().starts_with("drop the old tables first"), "{cut}");
    world.core.approvals().approve(&caller("kim"), &first).await.unwrap();
    assert!(authorized(&world, &id).await.unwrap().is_granted());
    let mut header = world.stored(&id).await.value;
    header.metadata.insert("rule_hint".into(), "skip the backup too".into());
    let item = encode(&header, None);
    rewrite(&world, &task_key(&tenant(), &id), |there| there.body = item.body).await;
    let decision = authorized(&world, &id).await.unwrap();
    assert!(matches!(decision, Authorization::ApprovalRequired(_)), "{decision:?}");
}

#[tokio::test]
async fn urgent_work_that_only_reads_may_start_at_once() {
    let gates = GateRules { priorities_for: PrioritiesFor::Mutating, ..GateRules::default() };
    let policy = Policy { gates, ..Policy::default() };
    let rules = EngineConfig { external: [Agent::Dev].into(), ..EngineConfig::default() };
    let world = governed(rules, policy, OnFailure::Restrict);
    let urgent = |task_type| new_task(task_type, Priority::P0);
    let monitor = world.create(urgent(TaskType::Monitor)).await;
    assert_eq!(world.stored(&monitor).await.value.status, Status::Assigned);
    let running = claim(&world, &monitor).await;
    assert_eq!(running.value.status, Status::InProgress);
    // What an external worker does is not visible here.
    let external = world.create(urgent(TaskType::Bugfix)).await;
    assert_eq!(world.stored(&external).await.value.status, Status::Pending);
    let payload = object(json!({ "project": "shop", "environment": "sandbox" }));
    let deploy = world.create(NewTask { payload, ..urgent(TaskType::Deploy) }).await;
    assert_eq!(world.stored(&deploy).await.value.status, Status::Pending);
    // A run that reaches a mutating call waits then.
    let arguments = object(json!({ "project": "shop", "environment": "sandbox" }));
    let call = ToolCall { tool: "deploy".into(), arguments, mutating: true };
    let payload = world.core.tasks().payload(&running.value).await.unwrap();
    let verdict = world
        .core
        .authorizer()
        .authorize_call(&running, &payload, Runner::Own, Some(&call))
        .await
        .unwrap();
    let Authorization::ApprovalRequired(asked) = verdict.authorization.decision else {
        panic!("{:?}", verdict.authorization)
    };
    assert!(asked.reason.contains("priority P0"), "{}", asked.reason);
    // As it is without the setting.
    let world = governed(EngineConfig::default(), Policy::default(), OnFailure::Restrict);
    let monitor = world.create(urgent(TaskType::Monitor)).await;
    assert_eq!(world.stored(&monitor).await.value.status, Status::Pending);
}

#[tokio::test]
async fn a_denied_call_is_refused_though_the_score_cant_be_read() {
    let rule = ToolRule {
        name: "never".into(),
        reason: "never".into(),
        agents: [].into(),
        tools: ["deploy".to_owned()].into(),
        environments: [].into(),
        when: None,
        effect: RuleEffect::Deny,
        quorum: 1,
    };
    let policy = Policy { tools: vec![rule], ..Policy::default() };
    let world = governed(EngineConfig::default(), policy, OnFailure::Allow);
    let id = world.create(deployment("staging")).await;
    world.script.fail_reads(Some((SCORE, ReadFault::Down)));
    let decision = authorized(&world, &id).await.unwrap();
    assert!(matches!(decision, Authorization::Denied { .. }), "{decision:?}");
}
