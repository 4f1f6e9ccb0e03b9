//! Unreachable governance: what runs, what waits, what fails.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;
use watchbill_core::decide::{Command, EngineConfig};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{Governance, NewTask, OnFailure, Runner};
use watchbill_domain::{ChangeKind, Priority, Status, TaskId, TaskType};
use watchbill_governance::{Policies, Policy, PolicyUnavailable};

use watchbill_testkit::ToolOfType;

use crate::common::{World, new_task, object, tenant};

/// A policy that can be made unreachable.
#[derive(Clone, Default)]
struct Fragile(Arc<AtomicBool>);

impl Fragile {
    fn break_it(&self, broken: bool) {
        self.0.store(broken, Ordering::Relaxed);
    }
}

#[async_trait]
impl Policies for Fragile {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(PolicyUnavailable("policy.yaml: line 3 is no more".into())),
            false => Ok(Arc::default()),
        }
    }
}

fn world(on_failure: OnFailure) -> (World, Fragile) {
    let mut world = World::new(EngineConfig::default());
    let policies = Fragile::default();
    let governance = Governance::new(Arc::new(policies.clone()), on_failure);
    world.core = world.core.governed_by(governance).planned_by(Arc::new(ToolOfType));
    (world, policies)
}

/// A deployment that needs no gate and only the lowest level.
fn deployment() -> NewTask {
    let payload = object(json!({ "project": "shop", "environment": "sandbox" }));
    NewTask { payload, ..new_task(TaskType::Deploy, Priority::P2) }
}

fn reading() -> NewTask {
    new_task(TaskType::Monitor, Priority::P2)
}

/// Claims a run as one of our own agents would.
pub async fn claim(world: &World, id: &TaskId) -> StoredTask {
    let stored = world.stored(id).await;
    let payload = match &stored.value.payload {
        watchbill_domain::Body::In(payload) => payload.clone(),
        other => panic!("it stands in the header: {other:?}"),
    };
    let verdict = world.core.authorizer().authorize(&stored, &payload, Runner::Own).await.unwrap();
    let (agent, assignment) = (stored.value.agent, stored.value.assignment);
    let authorization = verdict.authorization;
    let command = Command::Claim { agent, owner: "lambda:1".into(), assignment, authorization };
    world.core.tasks().command(&tenant(), id, &command).await.unwrap()
}

#[tokio::test]
async fn restricted_reading_goes_on_and_what_changes_something_waits() {
    let (world, policies) = world(OnFailure::Restrict);
    let (deploy, monitor) = (world.create(deployment()).await, world.create(reading()).await);
    policies.break_it(true);
    assert_eq!(claim(&world, &monitor).await.value.status, Status::InProgress);
    assert!(world.core.governance().is_degraded());
    let held = claim(&world, &deploy).await.value;
    assert_eq!((held.status, held.lease), (Status::Assigned, None));
    let note = held.log.last().and_then(|entry| entry.note.clone()).unwrap();
    assert!(note.contains("governance can't be reached") && note.contains("line 3"), "{note}");
    // It is not given up, and nothing counts against the agent.
    assert!(held.outcome.is_none());
    policies.break_it(false);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(claim(&world, &deploy).await.value.status, Status::InProgress);
    assert!(!world.core.governance().is_degraded());
    assert!(world.core.governance().is_reached().await);
}

#[tokio::test]
async fn denied_it_fails_and_the_score_stays_as_it_is() {
    let (world, policies) = world(OnFailure::Deny);
    let (deploy, monitor) = (world.create(deployment()).await, world.create(reading()).await);
    policies.break_it(true);
    assert_eq!(claim(&world, &monitor).await.value.status, Status::InProgress);
    // The first failure may be transient.
    let held = claim(&world, &deploy).await.value;
    assert_eq!((held.status, held.lease), (Status::Assigned, None));
    world.clock.advance(Duration::from_secs(61));
    let failed = claim(&world, &deploy).await.value;
    assert_eq!(failed.status, Status::Failed);
    let error = failed.error.unwrap();
    assert!(error.starts_with("Permission denied: governance can't be reached"), "{error}");
    let score_delta = failed.outcome.map(|outcome| outcome.reputation).unwrap_or_default();
    assert_eq!(score_delta, [], "nobody is to blame");
}

#[tokio::test]
async fn allowed_it_runs_and_both_task_and_log_say_without_what() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (world, policies) = world(OnFailure::Allow);
    let deploy = world.create(deployment()).await;
    policies.break_it(true);
    let running = claim(&world, &deploy).await.value;
    assert_eq!(running.status, Status::InProgress);
    let claimed = running.log.iter().find(|entry| entry.what == ChangeKind::Claimed).unwrap();
    let note = claimed.note.clone().unwrap_or_default();
    assert!(note.contains("without governance: the policy can't be read"), "{note}");
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let (text, field) = ("the task runs without governance", format!("task={deploy}"));
    let warns = |l: &str| l.contains("WARN") && l.contains(text) && l.contains(&field);
    assert!(said.lines().any(warns), "{said}");
    assert!(!world.core.governance().is_reached().await);
}

#[tokio::test]
async fn without_a_policy_new_tasks_are_gated_by_the_built_in_one() {
    let (world, policies) = world(OnFailure::Allow);
    policies.break_it(true);
    let urgent = world.create(new_task(TaskType::Monitor, Priority::P0)).await;
    assert_eq!(world.stored(&urgent).await.value.status, Status::Pending);
    let plain = world.create(reading()).await;
    assert_eq!(world.stored(&plain).await.value.status, Status::Assigned);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Log;

    fn make_writer(&'w self) -> Self::Writer {
        self.clone()
    }
}
