//! Both ways in which the Redis bridge reaches the bundle do the same: in its process, and
//! over its HTTP API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill::http_home::HttpHome;
use watchbill_api::{AgentInfo, ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::Rules;
use watchbill_domain::{
    Agent, ApprovalId, EventId, Role, Status, TaskId, TaskType, TenantId, hash_key,
};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_local::bundle::{Bundle, Settings};
use watchbill_redis_bridge::{CoreHome, EventOfPeer, Home, HomeError, TaskOfPeer};
use watchbill_wire::{CreateTask, PatchStatus, PublishEvent, TaskView};

const KEY: &str = "bridge-key-0123456789";
const WAIT: Duration = Duration::from_secs(10);

async fn bundle(folder: &Path) -> Bundle {
    let mut rules = Rules::default();
    rules.external_types.insert(TaskType::Bugfix);
    rules.external.insert(Agent::Faq);
    let settings = Settings { rules, slots: 0, ..Settings::default() };
    Bundle::start(folder, settings, |_| Vec::new()).await.unwrap()
}

/// The API of a bundle on a port of its own.
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

fn over_http(url: &str) -> HttpHome {
    let clock = Arc::new(SystemClock::new());
    HttpHome::new(url, Some(KEY.to_owned()), clock, Arc::new(SystemEntropy)).unwrap()
}

fn task(id: &str, task: Value) -> TaskOfPeer {
    let task = CreateTask::from_object(task.as_object().unwrap().clone()).unwrap();
    TaskOfPeer { id: TaskId::parse(id).unwrap(), task, trace_id: Some(format!("trace of {id}")) }
}

fn event(id: &str, event_type: &str) -> EventOfPeer {
    let body = json!({ "event_type": event_type, "source_agent": "peer", "payload": { "n": 1 } });
    let event = PublishEvent::read(body.to_string().as_bytes()).unwrap();
    EventOfPeer { id: EventId::parse(id).unwrap(), event, hops: 3 }
}

fn word(status: Status, result: Option<Value>) -> PatchStatus {
    let result: Option<Map<String, Value>> = result.map(|it| it.as_object().unwrap().clone());
    PatchStatus { status, error: None, result }
}

#[tokio::test]
async fn in_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    let home = CoreHome::new(bundle.core.clone(), TenantId::default(), vec![Agent::Ops]);
    does_what_the_bridge_needs(&home).await;
    bundle.stop(WAIT).await;
}

#[tokio::test]
async fn over_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    does_what_the_bridge_needs(&over_http(&serve(&bundle).await)).await;
    bundle.stop(WAIT).await;
}

async fn does_what_the_bridge_needs(home: &dyn Home) {
    assert_eq!(home.built().await.unwrap(), [Agent::Ops]);
    assert_eq!(home.route(TaskType::Bugfix, false), Agent::Dev);
    tasks(home).await;
    events(home).await;
    workers(home).await;
    approvals(home).await;
    let budget = home.budget().await.unwrap();
    assert_eq!(budget.day.used.tokens, 0);
}

async fn tasks(home: &dyn Home) {
    // Escaped, as the bridge hands over what peers name `peer/1 #é`.
    let new =
        task("peer=2F1 =23é", json!({ "type": "monitor", "payload": { "service": "system" } }));
    let made = home.create(new.clone()).await.unwrap();
    assert_eq!(
        (made.task_id.as_str(), &*made.trace_id),
        ("peer=2F1 =23é", "trace of peer=2F1 =23é")
    );
    let again = home.create(new.clone()).await.unwrap();
    assert_eq!(again.created_at, made.created_at);
    let other = task("peer=2F1 =23é", json!({ "type": "alert", "payload": {} }));
    let first = home.create(other).await.unwrap();
    assert_eq!(first.task_type, TaskType::Monitor, "an id is one task");

    let ids = ["none", "peer=2F1 =23é", "..", "."].map(|id| TaskId::parse(id).unwrap());
    let found = home.tasks(&ids).await.unwrap();
    let found: Vec<_> = found.iter().map(|task| task.as_ref().map(|t| &t.task_id)).collect();
    assert_eq!(found, [None, Some(&ids[1]), None, None]);
    assert_eq!(home.notes(&ids[0]).await.unwrap(), []);

    let secret = task("ghp_CANARY0123456789abcdefghij", json!({ "type": "faq", "payload": {} }));
    let refused = home.create(secret).await.unwrap_err();
    assert!(matches!(&refused, HomeError::Refused(why) if why.contains("task_id")), "{refused:?}");
}

/// All that comes until this one is among it, with the place that is reached.
async fn follow(home: &dyn Home, place: &mut Option<EventId>, until: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.iter().any(|one: &String| one == until) {
        let came = home.events(place.as_ref(), 50, WAIT).await.unwrap();
        assert!(!came.events.is_empty(), "'{until}' did not come after {seen:?}");
        seen.extend(came.events.iter().map(|event| match event.event_id.millis() {
            Some(_) => event.event_type.to_string(),
            None => event.event_id.to_string(),
        }));
        *place = came.reached;
    }
    seen
}

async fn events(home: &dyn Home) {
    // What the tasks before made is recorded by now or soon: from some place on.
    let mut place = home.events(None, 50, Duration::ZERO).await.unwrap().reached;
    home.create(task("t-e", json!({ "type": "monitor", "payload": {} }))).await.unwrap();
    follow(home, &mut place, "task.created").await;
    for id in ["evt-1", "evt-1", "evt-2", "evt-3"] {
        home.publish(event(id, "ci.passed")).await.unwrap();
    }
    let seen = follow(home, &mut place, "evt-3").await;
    let foreign: Vec<_> = seen.iter().filter(|one| one.starts_with("evt")).collect();
    assert_eq!(foreign, ["evt-1", "evt-2", "evt-3"], "each once");
    let kept = place.clone().unwrap();
    assert!(kept.millis().is_some(), "a place that is found again: {kept}");
    let nothing = home.events(place.as_ref(), 50, Duration::ZERO).await.unwrap();
    assert!(nothing.events.is_empty(), "{nothing:?}");
    let unknown = EventId::parse("nobody's").unwrap();
    let missed = home.events(Some(&unknown), 50, Duration::ZERO).await.unwrap_err();
    assert!(matches!(missed, HomeError::NotFound(_)), "{missed:?}");
    let reserved = home.publish(event("evt-4", "approval.granted")).await.unwrap_err();
    assert!(matches!(reserved, HomeError::Refused(_)), "{reserved:?}");
}

async fn workers(home: &dyn Home) {
    for (id, task_type) in
        [("b-1", "bugfix"), ("b-2", "bugfix"), ("i-1", "investigate"), ("q-1", "faq")]
    {
        let body = json!({ "type": task_type, "payload": { "repo": "shop" } });
        home.create(task(id, body)).await.unwrap();
    }
    let ids = |mut tasks: Vec<TaskView>| -> Vec<(String, bool)> {
        tasks.sort_by(|a, b| a.task_id.cmp(&b.task_id));
        tasks.into_iter().map(|task| (task.task_id.to_string(), task.external)).collect()
    };
    let outside = |id: &str| (id.to_owned(), true);
    let bugs = home.assigned(Agent::Dev, Some(TaskType::Bugfix)).await.unwrap();
    assert_eq!(ids(bugs), [outside("b-1"), outside("b-2")]);
    // What dev investigates is left to our own.
    let own = home.assigned(Agent::Dev, Some(TaskType::Investigate)).await.unwrap();
    assert_eq!(ids(own), [("i-1".to_owned(), false)]);
    let of_faq = home.assigned(Agent::Faq, None).await.unwrap();
    assert_eq!(ids(of_faq), [outside("q-1")]);

    let id = TaskId::parse("b-1").unwrap();
    home.set_status(&id, word(Status::InProgress, None)).await.unwrap();
    home.set_status(&id, word(Status::Completed, Some(json!({ "n": 1 })))).await.unwrap();
    let ended = home.tasks(std::slice::from_ref(&id)).await.unwrap().remove(0).unwrap();
    assert_eq!(ended.status, Status::Completed);
    assert_eq!(ended.metadata["result"]["n"], 1);
    let late = home.set_status(&id, word(Status::Failed, None)).await.unwrap_err();
    assert!(matches!(late, HomeError::Conflict(_)), "{late:?}");
    for nobody in ["nobody", ".."] {
        let nobody = TaskId::parse(nobody).unwrap();
        let missed = home.set_status(&nobody, word(Status::Failed, None)).await.unwrap_err();
        assert!(matches!(missed, HomeError::NotFound(_)), "{missed:?}");
    }
}

async fn approvals(home: &dyn Home) {
    let gated = json!({ "type": "deploy", "payload": { "project": "shop" }, "priority": "P0" });
    let task = home.create(task("d-1", gated)).await.unwrap();
    assert_eq!(task.status, Status::Pending);
    let pending = home.pending_approvals().await.unwrap();
    assert_eq!(pending.len(), 1);
    let id = ApprovalId::of(&task.task_id, 1);
    assert_eq!(home.approval(&id).await.unwrap().unwrap().task_id, task.task_id);
    let nobody = ApprovalId::parse("approval_nobody").unwrap();
    assert!(home.approval(&nobody).await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_is_away_or_refuses_is_told_apart() {
    let away = over_http("http://127.0.0.1:1").built().await.unwrap_err();
    assert!(matches!(&away, HomeError::Retry { reason, .. } if reason.contains("127.0.0.1:1")));
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path()).await;
    let url = serve(&bundle).await;
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let wrong = Some("another-key-0123456789".to_owned());
    let stranger = HttpHome::new(&url, wrong, clock, entropy).unwrap();
    let refused = stranger.built().await.unwrap_err();
    // It is of the key, so nothing that was carried is rejected for it.
    assert!(
        matches!(&refused, HomeError::Retry { reason, .. } if reason.contains("401")),
        "{refused:?}"
    );
    bundle.stop(WAIT).await;
}
