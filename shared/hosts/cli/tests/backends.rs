//! Both backends of the Redis bridge behave the same: in its process, and over the HTTP API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill::http_backend::HttpBackend;
use watchbill_api::{AgentInfo, ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::EngineConfig;
use watchbill_domain::{
    Agent, ApprovalId, EventId, Role, Status, TaskId, TaskType, TenantId, hash_key,
};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_local::bundle::{Bundle, Settings};
use watchbill_redis_bridge::{
    Backend, BackendError, CoreBackend, LegacyEventRequest, LegacyTaskRequest,
};
use watchbill_wire::{CreateTask, PatchStatus, PublishEvent, TaskView};

const KEY: &str = "bridge-key-0123456789";
const WAIT: Duration = Duration::from_secs(10);

async fn bundle(folder: &Path) -> Bundle {
    let mut rules = EngineConfig::default();
    rules.external_types.insert(TaskType::Bugfix);
    rules.external.insert(Agent::Faq);
    let settings = Settings { rules, slots: 0, ..Settings::default() };
    Bundle::start(folder, settings, |_| Vec::new()).await.unwrap()
}

/// Serves the API of a bundle on a free port.
async fn serve(bundle: &Bundle) -> String {
    let config = ApiConfig {
        static_keys: vec![StaticKey {
            name: "redis".into(),
            key_hash: hash_key(KEY),
            role: Role::Agent,
            tenant: TenantId::default(),
        }],
        rate_limits: RateLimits::Off,
        agents: [(Agent::Ops, true), (Agent::Dev, false)]
            .map(|(agent, built)| AgentInfo { agent, built, status: "running".into() })
            .into(),
        ..ApiConfig::default()
    };
    let state = ApiState::new(bundle.core.clone(), config).unwrap();
    let service = watchbill_api::router(state).into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    url
}

fn over_http(url: &str) -> HttpBackend {
    let clock = Arc::new(SystemClock::new());
    HttpBackend::new(url, Some(KEY.to_owned()), clock, Arc::new(SystemEntropy)).unwrap()
}

fn task(id: &str, task: Value) -> LegacyTaskRequest {
    let task = CreateTask::from_object(task.as_object().unwrap().clone()).unwrap();
    LegacyTaskRequest {
        id: TaskId::parse(id).unwrap(),
        task,
        trace_id: Some(format!("trace of {id}")),
    }
}

fn event(id: &str, event_type: &str) -> LegacyEventRequest {
    let body = json!({ "event_type": event_type, "source_agent": "peer", "payload": { "n": 1 } });
    let event = PublishEvent::read(body.to_string().as_bytes()).unwrap();
    LegacyEventRequest { id: EventId::parse(id).unwrap(), event, hops: 3 }
}

fn word(status: Status, result: Option<Value>) -> PatchStatus {
    let result: Option<Map<String, Value>> = result.map(|it| it.as_object().unwrap().clone());
    PatchStatus { status, error: None, result }
}

#[tokio::test]
async fn in_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    let backend = CoreBackend::new(bundle.core.clone(), TenantId::default(), vec![Agent::Ops]);
    does_what_the_bridge_needs(&backend).await;
    bundle.stop(WAIT).await;
}

#[tokio::test]
async fn over_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    does_what_the_bridge_needs(&over_http(&serve(&bundle).await)).await;
    bundle.stop(WAIT).await;
}

async fn does_what_the_bridge_needs(backend: &dyn Backend) {
    assert_eq!(backend.built().await.unwrap(), [Agent::Ops]);
    assert_eq!(backend.route(TaskType::Bugfix, false), Agent::Dev);
    tasks(backend).await;
    events(backend).await;
    workers(backend).await;
    approvals(backend).await;
    let budget = backend.budget().await.unwrap();
    assert_eq!(budget.day.used.tokens, 0);
}

async fn tasks(backend: &dyn Backend) {
    // Escaped as the bridge does it: the legacy queue's id is `peer/1 #é`.
    let new =
        task("peer=2F1 =23é", json!({ "type": "monitor", "payload": { "service": "system" } }));
    let made = backend.create(new.clone()).await.unwrap();
    assert_eq!(
        (made.task_id.as_str(), &*made.trace_id),
        ("peer=2F1 =23é", "trace of peer=2F1 =23é")
    );
    let again = backend.create(new.clone()).await.unwrap();
    assert_eq!(again.created_at, made.created_at);
    let other = task("peer=2F1 =23é", json!({ "type": "alert", "payload": {} }));
    let first = backend.create(other).await.unwrap();
    assert_eq!(first.task_type, TaskType::Monitor, "one id is one task");

    let ids = ["none", "peer=2F1 =23é", "..", "."].map(|id| TaskId::parse(id).unwrap());
    let found = backend.tasks(&ids).await.unwrap();
    let found: Vec<_> = found.iter().map(|task| task.as_ref().map(|t| &t.task_id)).collect();
    assert_eq!(found, [None, Some(&ids[1]), None, None]);
    assert_eq!(backend.notes(&ids[0]).await.unwrap(), []);

    let secret = task("ghp_CANARY0123456789abcdefghij", json!({ "type": "faq", "payload": {} }));
    let refused = backend.create(secret).await.unwrap_err();
    assert!(
        matches!(&refused, BackendError::Refused(why) if why.contains("task_id")),
        "{refused:?}"
    );
}

/// Reads events until this one is among them, and updates the position.
async fn follow(backend: &dyn Backend, place: &mut Option<EventId>, until: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.iter().any(|one: &String| one == until) {
        let came = backend.events(place.as_ref(), 50, WAIT).await.unwrap();
        assert!(!came.events.is_empty(), "'{until}' did not come after {seen:?}");
        seen.extend(came.events.iter().map(|event| match event.event_id.millis() {
            Some(_) => event.event_type.to_string(),
            None => event.event_id.to_string(),
        }));
        *place = came.reached;
    }
    seen
}

async fn events(backend: &dyn Backend) {
    // The events of the tasks above may be recorded later, so any current position will do.
    let mut place = backend.events(None, 50, Duration::ZERO).await.unwrap().reached;
    backend.create(task("t-e", json!({ "type": "monitor", "payload": {} }))).await.unwrap();
    follow(backend, &mut place, "task.created").await;
    for id in ["evt-1", "evt-1", "evt-2", "evt-3"] {
        backend.publish(event(id, "ci.passed")).await.unwrap();
    }
    let seen = follow(backend, &mut place, "evt-3").await;
    let foreign: Vec<_> = seen.iter().filter(|one| one.starts_with("evt")).collect();
    assert_eq!(foreign, ["evt-1", "evt-2", "evt-3"], "each once");
    let kept = place.clone().unwrap();
    assert!(kept.millis().is_some(), "a position that can be found again: {kept}");
    let nothing = backend.events(place.as_ref(), 50, Duration::ZERO).await.unwrap();
    assert!(nothing.events.is_empty(), "{nothing:?}");
    let unknown = EventId::parse("nobody's").unwrap();
    let missed = backend.events(Some(&unknown), 50, Duration::ZERO).await.unwrap_err();
    assert!(matches!(missed, BackendError::NotFound(_)), "{missed:?}");
    let reserved = backend.publish(event("evt-4", "approval.granted")).await.unwrap_err();
    assert!(matches!(reserved, BackendError::Refused(_)), "{reserved:?}");
}

async fn workers(backend: &dyn Backend) {
    for (id, task_type) in
        [("b-1", "bugfix"), ("b-2", "bugfix"), ("i-1", "investigate"), ("q-1", "faq")]
    {
        let body = json!({ "type": task_type, "payload": { "repo": "shop" } });
        backend.create(task(id, body)).await.unwrap();
    }
    let ids = |mut tasks: Vec<TaskView>| -> Vec<(String, bool)> {
        tasks.sort_by(|a, b| a.task_id.cmp(&b.task_id));
        tasks.into_iter().map(|task| (task.task_id.to_string(), task.external)).collect()
    };
    let outside = |id: &str| (id.to_owned(), true);
    let bugs = backend.assigned(Agent::Dev, Some(TaskType::Bugfix)).await.unwrap();
    assert_eq!(ids(bugs), [outside("b-1"), outside("b-2")]);
    // Investigations of dev are not external.
    let own = backend.assigned(Agent::Dev, Some(TaskType::Investigate)).await.unwrap();
    assert_eq!(ids(own), [("i-1".to_owned(), false)]);
    let of_faq = backend.assigned(Agent::Faq, None).await.unwrap();
    assert_eq!(ids(of_faq), [outside("q-1")]);

    let id = TaskId::parse("b-1").unwrap();
    backend.set_status(&id, word(Status::InProgress, None)).await.unwrap();
    backend.set_status(&id, word(Status::Completed, Some(json!({ "n": 1 })))).await.unwrap();
    let ended = backend.tasks(std::slice::from_ref(&id)).await.unwrap().remove(0).unwrap();
    assert_eq!(ended.status, Status::Completed);
    assert_eq!(ended.metadata["result"]["n"], 1);
    let late = backend.set_status(&id, word(Status::Failed, None)).await.unwrap_err();
    assert!(matches!(late, BackendError::Conflict(_)), "{late:?}");
    for nobody in ["nobody", ".."] {
        let nobody = TaskId::parse(nobody).unwrap();
        let missed = backend.set_status(&nobody, word(Status::Failed, None)).await.unwrap_err();
        assert!(matches!(missed, BackendError::NotFound(_)), "{missed:?}");
    }
}

async fn approvals(backend: &dyn Backend) {
    let gated = json!({ "type": "deploy", "payload": { "project": "shop" }, "priority": "P0" });
    let task = backend.create(task("d-1", gated)).await.unwrap();
    assert_eq!(task.status, Status::Pending);
    let pending = backend.pending_approvals().await.unwrap();
    assert_eq!(pending.len(), 1);
    let id = ApprovalId::of(&task.task_id, 1);
    assert_eq!(backend.approval(&id).await.unwrap().unwrap().task_id, task.task_id);
    let nobody = ApprovalId::parse("approval_nobody").unwrap();
    assert!(backend.approval(&nobody).await.unwrap().is_none());
}

#[tokio::test]
async fn an_unreachable_server_and_a_refusal_are_distinguished() {
    let away = over_http("http://127.0.0.1:1").built().await.unwrap_err();
    assert!(matches!(&away, BackendError::Retry { reason, .. } if reason.contains("127.0.0.1:1")));
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    let url = serve(&bundle).await;
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let wrong = Some("another-key-0123456789".to_owned());
    let stranger = HttpBackend::new(&url, wrong, clock, entropy).unwrap();
    let refused = stranger.built().await.unwrap_err();
    // The key is wrong, so no imported item is rejected because of it.
    assert!(
        matches!(&refused, BackendError::Retry { reason, .. } if reason.contains("401")),
        "{refused:?}"
    );
    bundle.stop(WAIT).await;
}
