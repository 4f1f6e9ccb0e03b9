//! Freezes: deferred work requires no approval yet, keeps the one it has, and runs after the
//! freeze.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_core::decide::{Command, EngineConfig};
use watchbill_core::ports::Clock as _;
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{CommandError, Governance, NewTask, OnFailure, Runner, StatusChange};
use watchbill_domain::{
    ApprovalId, Body, Caller, ChangeKind, Priority, Role, Status, Task, TaskId, TaskType,
};
use watchbill_governance::{
    Freeze, FreezeWhen, Policies, Policy, PolicyUnavailable, RuleEffect, ToolRule,
};
use watchbill_testkit::ToolOfType;

use super::authorization::Fixed;

use crate::common::{World, caller, new_task, object, outside_rules, tenant};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A policy that the test changes.
#[derive(Clone, Default)]
struct Changing(Arc<Mutex<Arc<Policy>>>);

#[async_trait]
impl Policies for Changing {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        Ok(self.0.lock().unwrap().clone())
    }
}

fn world(rules: EngineConfig) -> (World, Changing) {
    let mut world = World::new(rules);
    let policies = Changing::default();
    let governance = Governance::new(Arc::new(policies.clone()), OnFailure::Restrict);
    world.core = world.core.governed_by(governance).planned_by(Arc::new(ToolOfType));
    (world, policies)
}

/// A freeze of production from now on.
fn freeze(world: &World, policies: &Changing, hours: u32) {
    let from = world.clock.now();
    let freeze = Freeze {
        name: "release".into(),
        reason: "the release".into(),
        environments: [].into(),
        when: FreezeWhen::Once { from, until: from.plus(HOUR * hours) },
        override_roles: [Role::Approver].into(),
        override_names: [].into(),
    };
    *policies.0.lock().unwrap() = Arc::new(Policy { freezes: vec![freeze], ..Policy::default() });
}

fn deployment() -> NewTask {
    let payload = object(json!({ "project": "shop", "environment": "production" }));
    NewTask { payload, ..new_task(TaskType::Deploy, Priority::P2) }
}

async fn claim(world: &World, id: &TaskId) -> Result<StoredTask, CommandError> {
    let stored = world.stored(id).await;
    let Body::In(payload) = stored.value.payload.clone() else { panic!("it is small") };
    let verdict = world.core.authorizer().authorize(&stored, &payload, Runner::Own).await?;
    let (agent, assignment) = (stored.value.agent, stored.value.assignment);
    let authorization = verdict.authorization;
    let command = Command::Claim { agent, owner: "lambda:1".into(), assignment, authorization };
    let extra = Fixed(command, verdict.extra_writes);
    world.core.tasks().execute_with_writes(world.stored(id).await, &extra).await
}

/// Claims whenever the task's message arrives, until the task is no longer deferred.
async fn until_not_held(world: &World, id: &TaskId) -> StoredTask {
    for _ in 0..40 {
        let task = claim(world, id).await.unwrap();
        if task.value.held.is_none() {
            return task;
        }
        let resume_at = task.value.resume_at.unwrap();
        world.clock.advance(resume_at.since(world.clock.now()));
    }
    panic!("held for ever");
}

async fn approve(world: &World, id: &TaskId) {
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(id, 1)).await.unwrap();
}

async fn pending(world: &World) -> usize {
    world.core.approvals().pending(&tenant(), 10, None).await.unwrap().entries.len()
}

#[tokio::test]
async fn what_was_approved_before_a_freeze_runs_after_it() {
    let (world, policies) = world(EngineConfig::default());
    let id = world.create(deployment()).await;
    approve(&world, &id).await;
    let began = world.clock.now();
    freeze(&world, &policies, 14);
    let task = until_not_held(&world, &id).await;
    assert_eq!(task.value.status, Status::InProgress, "{:?}", task.value.log);
    let waited = world.clock.now().since(began);
    assert!(waited <= 14 * HOUR + Duration::from_secs(30), "{waited:?}");
    assert_eq!(world.count("approval"), 1, "nobody is asked a second time");
    assert_eq!(task.value.log.iter().filter(|entry| entry.what == ChangeKind::Held).count(), 1);
}

#[tokio::test]
async fn approval_is_requested_after_the_freeze() {
    let (world, policies) = world(EngineConfig::default());
    freeze(&world, &policies, 60);
    // An approval requested now would expire on the second day of the freeze and cancel the task.
    let id = world.create(deployment()).await;
    assert_eq!(world.stored(&id).await.value.status, Status::Assigned);
    let held = claim(&world, &id).await.unwrap();
    assert!(held.value.held.is_some());
    assert_eq!(pending(&world).await, 0);
    world.clock.advance(held.value.resume_at.unwrap().since(world.clock.now()));
    let task = until_not_held(&world, &id).await;
    assert_eq!((task.value.status, pending(&world).await), (Status::Blocked, 1));
    approve(&world, &id).await;
    assert_eq!(claim(&world, &id).await.unwrap().value.status, Status::InProgress);
}

#[tokio::test]
async fn an_approval_outlasted_by_a_long_freeze_is_requested_again() {
    let (world, policies) = world(EngineConfig::default());
    let id = world.create(deployment()).await;
    approve(&world, &id).await;
    freeze(&world, &policies, 60);
    let task = until_not_held(&world, &id).await;
    assert_eq!((task.value.status, pending(&world).await), (Status::Blocked, 1));
    world.core.approvals().approve(&caller("kim"), &ApprovalId::of(&id, 2)).await.unwrap();
    assert_eq!(claim(&world, &id).await.unwrap().value.status, Status::InProgress);
}

#[tokio::test]
async fn what_a_rule_denies_is_denied_at_once_in_a_freeze_too() {
    let (world, policies) = world(EngineConfig::default());
    freeze(&world, &policies, 60);
    let frozen = policies.0.lock().unwrap().clone();
    let rule = ToolRule {
        name: "no deployments".into(),
        reason: "not by agents".into(),
        agents: [].into(),
        tools: ["deploy".to_owned()].into(),
        environments: [].into(),
        when: None,
        effect: RuleEffect::Deny,
        quorum: 1,
    };
    *policies.0.lock().unwrap() = Arc::new(Policy {
        tools: vec![rule],
        freezes: frozen.freezes.clone(),
        ..Policy::default()
    });
    let id = world.create(deployment()).await;
    assert_eq!(claim(&world, &id).await.unwrap().value.status, Status::Failed);
}

#[tokio::test]
async fn an_override_lets_a_deferred_task_request_its_approval() {
    let (world, policies) = world(EngineConfig::default());
    freeze(&world, &policies, 60);
    let id = world.create(deployment()).await;
    claim(&world, &id).await.unwrap();
    let kim = Caller { name: "kim".into(), role: Role::Approver, tenant: tenant(), made_by: None };
    world
        .core
        .tasks()
        .override_freeze(&kim, &id, "release", "the fix of the outage")
        .await
        .unwrap();
    let task = claim(&world, &id).await.unwrap();
    assert_eq!(task.value.status, Status::Blocked, "the freeze is passed, the gate is not");
    approve(&world, &id).await;
    assert_eq!(claim(&world, &id).await.unwrap().value.status, Status::InProgress);
}

#[tokio::test]
async fn an_external_worker_waits_before_approval_is_requested() {
    let (world, policies) = world(outside_rules());
    freeze(&world, &policies, 3);
    let id = world.create(deployment()).await;
    let worker = Caller { name: "w".into(), role: Role::Agent, tenant: tenant(), made_by: None };
    let to = || StatusChange { status: Status::InProgress, error: None, result: None };
    let refused = world.core.tasks().set_status(&worker, &id, to()).await.unwrap_err().to_string();
    assert!(refused.contains("freeze 'release'"), "{refused}");
    assert_eq!(pending(&world).await, 0);
    let stored = world.stored(&id).await;
    assert!(stored.value.external && stored.value.held.is_some());
    world.clock.advance(3 * HOUR + Duration::from_secs(30));
    let refused = world.core.tasks().set_status(&worker, &id, to()).await.unwrap_err().to_string();
    assert!(refused.contains("waits for approval"), "{refused}");
    approve(&world, &id).await;
    world.core.tasks().set_status(&worker, &id, to()).await.unwrap();
}

/// The stored form of a deferred task: these names are fixed. Without them it is of an older build.
#[test]
fn the_stored_form_of_a_held_task() {
    let stored = json!({
        "id": "t-1", "t": "default", "ty": "deploy", "pr": "P2", "src": "user", "st": "assigned",
        "ag": "ops", "n": 2, "mr": 3, "eo": 3, "ow": 9, "ra": 1_795_169_700_000_i64,
        "hd": { "w": "freeze 'release'", "n": 2 }, "ws": 1_795_168_800_000_i64,
        "oa": 1_795_170_600_000_i64, "ca": 1_795_165_200_000_i64, "tr": "trace",
        "pl": { "in": {} }, "by": "alex", "lg": [],
        "gr": [{ "h": "hash", "a": "x", "u": 1_795_170_600_000_i64, "s": "salt",
                 "g": 1_795_167_000_000_i64 }],
    });
    let task: Task = serde_json::from_value(stored.clone()).unwrap();
    assert_eq!(task.held.as_ref().map(|held| held.looks), Some(2));
    assert_eq!((task.excused, task.offered_version), (3, 9));
    let mut older = stored.clone();
    for new in ["eo", "ow", "hd", "ws"] {
        older.as_object_mut().unwrap().remove(new);
    }
    older["gr"][0].as_object_mut().unwrap().remove("g");
    let read: Task = serde_json::from_value(older.clone()).unwrap();
    assert_eq!((&read.held, read.excused, read.waiting_since), (&None, 0, None));
    // Neither form gains or loses a field when it is written again.
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (written, read) in [(stored, task), (older, read)] {
        assert_eq!(keys(&written), keys(&serde_json::to_value(read).unwrap()));
    }
}
