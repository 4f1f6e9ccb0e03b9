//! The log lines of a task's state changes, at info level.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use watchbill_core::decide::{Authorization, EngineConfig, RunResult};
use watchbill_core::service::{NewTask, Runner, StatusChange};
use watchbill_domain::{Priority, Status, TaskType, ToolCall};
use watchbill_testkit::KnownTools;

use crate::common::{World, caller, new_task, object, outside_rules, plain, succeeded, tenant};

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

impl Log {
    /// Captures everything that is logged on this thread at info or above, from now on.
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter(EnvFilter::new("info"))
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The fields of each line, including the message.
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["fields"].take();
        text.lines().map(line).collect()
    }

    fn of(&self, message: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["message"] == message).collect()
    }
}

#[tokio::test]
async fn a_run_is_logged_from_its_task_to_its_score_change() {
    let world = World::new(EngineConfig::default());
    let (log, _logging) = Log::start();
    let id = world.create(plain()).await;
    let fence = world.claim(&id).await.unwrap().value.fence;
    world.clock.advance(Duration::from_millis(1_250));
    world.end(&id, fence, succeeded()).await.unwrap();
    let told: Vec<_> = log.lines().iter().map(|line| line["message"].clone()).collect();
    assert_eq!(told, ["task accepted", "task started", "task ended", "reputation event recorded"]);
    for line in log.lines() {
        assert_eq!(line["task_id"], id.as_str(), "{line}");
        assert_eq!(line["agent"], "ops_agent", "{line}");
    }
    let started = &log.of("task started")[0];
    assert_eq!((&started["task_type"], &started["run"]), (&json!("monitor"), &json!(1)));
    assert_eq!((&started["by"], started.get("duration_ms")), (&json!("lambda:1"), None));
    let ended = &log.of("task ended")[0];
    assert_eq!((&ended["outcome"], &ended["duration_ms"]), (&json!("completed"), &json!(1_250)));
    let score_delta = &log.of("reputation event recorded")[0];
    assert_eq!((&score_delta["event"], &score_delta["delta"]), (&json!("task_success"), &json!(2)));
}

#[tokio::test]
async fn each_end_of_a_run_logs_its_duration_and_reason() {
    let world = World::new(EngineConfig::default());
    let id = world.create(NewTask { max_retries: Some(1), ..plain() }).await;
    let (log, _logging) = Log::start();
    let failed = || RunResult::Failed { error: "no route to db".into(), retry: None };
    for millis in [300, 700] {
        world.clock.advance(Duration::from_secs(400));
        let fence = world.claim(&id).await.unwrap().value.fence;
        world.clock.advance(Duration::from_millis(millis));
        world.end(&id, fence, failed()).await.unwrap();
    }
    let again = &log.of("task failed and will be retried")[0];
    assert_eq!((&again["outcome"], &again["duration_ms"]), (&json!("assigned"), &json!(300)));
    let ended = &log.of("task ended")[0];
    assert_eq!((&ended["outcome"], &ended["duration_ms"]), (&json!("failed"), &json!(700)));
    assert_eq!(ended["reason"], "no route to db");
}

/// No duration is logged for a task that never ran, nor for earlier runs.
#[tokio::test]
async fn what_did_not_run_took_no_time() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let fence = world.claim(&id).await.unwrap().value.fence;
    let failed = RunResult::Failed { error: "no".into(), retry: None };
    world.end(&id, fence, failed).await.unwrap();
    let (log, _logging) = Log::start();
    world.core.tasks().cancel(&caller("kim"), &id, Some("not needed".into())).await.unwrap();
    let ended = &log.of("task ended")[0];
    assert_eq!((&ended["outcome"], ended.get("duration_ms")), (&json!("cancelled"), None));
    assert_eq!((&ended["by"], &ended["reason"]), (&json!("kim"), &json!("not needed")));
}

#[tokio::test]
async fn an_external_workers_score_change_is_logged_as_its_own() {
    let world = World::new(outside_rules());
    let id = world.create(plain()).await;
    let (log, _logging) = Log::start();
    let change = StatusChange { status: Status::Completed, error: None, result: None };
    world.core.tasks().set_status(&caller("ci"), &id, change).await.unwrap();
    assert_eq!(log.of("reputation event recorded")[0]["agent"], "worker:ci");
}

#[tokio::test]
async fn a_check_names_the_operation_and_what_came_of_it() {
    let mut world = World::new(EngineConfig::default());
    world.core = world.core.planned_by(Arc::new(KnownTools));
    let id = world.create(new_task(TaskType::Monitor, Priority::P2)).await;
    let stored = world.stored(&id).await;
    let (log, _logging) = Log::start();
    let call = |tool: &str, mutating| ToolCall {
        tool: tool.into(),
        arguments: object(json!({ "environment": "production" })),
        mutating,
    };
    let none = serde_json::Map::new();
    let judged = async |call: ToolCall| {
        let judged =
            world.core.authorizer().authorize_call(&stored, &none, Runner::Own, Some(&call)).await;
        judged.unwrap().authorization.decision
    };
    assert!(judged(call("monitor", false)).await.is_granted());
    let passed = &log.of("permission checks passed")[0];
    assert_eq!(passed["operation"], "monitor_system");
    assert_eq!((&passed["task_id"], &passed["tenant"]), (&json!(id), &json!(tenant())));
    let asked = judged(call("deploy", true)).await;
    assert!(matches!(asked, Authorization::ApprovalRequired(_)), "{asked:?}");
    let asked = &log.of("approval required")[0];
    assert_eq!(asked["operation"], "deploy_prod");
    assert!(asked["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{asked}");
    // An unregistered tool has no known operation, so it is denied.
    let refused = judged(call("wipe", true)).await;
    let Authorization::Denied { error, score_delta: None } = refused else { panic!("{refused:?}") };
    assert_eq!(error, "Permission denied: no tool 'wipe' is registered");
    // A call that claims less than its tool's spec is denied too.
    let refused = judged(call("deploy", false)).await;
    let Authorization::Denied { error, score_delta: None } = refused else { panic!("{refused:?}") };
    assert!(error.starts_with("Permission denied: tool 'deploy' is mutating"), "{error}");
}
