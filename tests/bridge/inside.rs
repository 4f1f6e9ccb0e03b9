//! The bridge over a core in memory, with a clock that the test moves: what happens after a
//! minute, and a function's round.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock, Topic};
use watchbill_core::service::{Core, Governance, Identity, NewTask};
use watchbill_domain::{Agent, Caller, Priority, Role, Status, TaskId, TaskType, TenantId};
use watchbill_governance::Policy;
use watchbill_host::clock::SystemClock;
use watchbill_host::entropy::SystemEntropy;
use watchbill_redis::{RedisLegacyQueue, RedisOptions};
use watchbill_redis_bridge::{Bridge, BridgeContext, CoreBackend, Drain, ExportSettings, Settings};
use watchbill_testkit::{FakeClock, MemoryStore, RedisServer, ports_over};

use super::queue::{self, QUEUE, TAKEN};

/// A step of the clock, small compared with every wait of the bridge.
const STEP: Duration = Duration::from_millis(500);

pub(super) struct Inside {
    redis: RedisServer,
    client: MultiplexedConnection,
    pub(super) core: Core,
    pub(super) bridge: Bridge,
    clock: Arc<dyn Clock>,
}

impl Inside {
    pub(super) async fn new(clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let redis = RedisServer::start();
        let client = queue::connect(&redis.url()).await;
        let ports = ports_over(Arc::new(MemoryStore::new()), clock.clone(), 7);
        let rules =
            EngineConfig { external: settings.feed.agents.clone(), ..EngineConfig::default() };
        let governance = Governance::fixed(Policy::without_gates());
        let core = Core::new(ports, Arc::new(rules), 1).governed_by(governance);
        // Timeouts of calls to Redis use the real clock.
        let options = RedisOptions::new(Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let legacy = RedisLegacyQueue::open(&redis.url(), options).expect("an address");
        let backend = CoreBackend::new(core.clone(), TenantId::default(), vec![Agent::Ops]);
        let context = BridgeContext {
            backend: Arc::new(backend),
            legacy: Arc::new(legacy),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            host: "test".to_owned(),
        };
        Self { redis, client, core, bridge: Bridge::new(context, settings), clock }
    }

    pub(super) fn url(&self) -> String {
        self.redis.url()
    }

    async fn status(&self, id: &TaskId) -> Option<Status> {
        let found =
            self.core.tasks().stored(&TenantId::default(), id).await.expect("the store is there");
        found.map(|task| task.value.status)
    }

    /// The ids in the queue.
    async fn queued(&mut self) -> Vec<String> {
        let mut ask = redis::cmd("ZRANGE");
        ask.arg(QUEUE).arg(0).arg(-1).query_async(&mut self.client).await.expect("redis answers")
    }

    async fn data(&mut self, id: &TaskId) -> Value {
        let mut ask = redis::cmd("HGET");
        ask.arg(format!("orchestrator:task:{id}")).arg("data");
        let text: String = ask.query_async(&mut self.client).await.expect("it is there");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Moves the clock until the condition holds; returns how far it was moved.
macro_rules! moved_until {
    ($clock:expr, $what:literal, $holds:expr) => {{
        let mut moved = Duration::ZERO;
        while !$holds {
            assert!(moved < Duration::from_secs(600), "not within ten minutes: {}", $what);
            $clock.advance(STEP);
            moved += STEP;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        moved
    }};
}

fn bugfix() -> NewTask {
    NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Bugfix,
        priority: Priority::P2,
        source: "user".to_owned(),
        payload: Map::from_iter([("issue".to_owned(), json!(7))]),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "alex".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Fresh,
        hops: 0,
    }
}

#[tokio::test]
async fn an_exported_task_that_no_worker_started_is_enqueued_again_under_the_other_agent_name() {
    let clock = Arc::new(FakeClock::default());
    let feed = ExportSettings { agents: [Agent::Dev].into(), ..ExportSettings::default() };
    let settings = Settings { feed, ..Settings::default() };
    let mut inside = Inside::new(clock.clone(), settings).await;
    let id = inside.core.tasks().create(bugfix()).await.expect("it is accepted").task.task.id;
    let (stop, stopped) = watch::channel(false);
    let bridge = inside.bridge.clone();
    let running = tokio::spawn(async move { bridge.run(stopped).await });

    moved_until!(clock, "exported", inside.queued().await == [id.to_string()]);
    assert_eq!(inside.status(&id).await, Some(Status::InProgress), "the bridge is its worker");
    assert_eq!(inside.data(&id).await["assigned_to"], "dev");
    // A worker pops the task and dies before it marks it.
    let mut take = redis::cmd("ZPOPMIN");
    let _: Vec<(String, f64)> =
        take.arg(QUEUE).query_async(&mut inside.client).await.expect("redis answers");
    let after = moved_until!(clock, "there again", inside.queued().await == [id.to_string()]);
    assert!(after >= Duration::from_secs(25), "after {after:?}: a worker may just be slow");
    assert_eq!(inside.data(&id).await["assigned_to"], "dev_agent");
    // Another worker starts it and is slow: it is not enqueued again, and its lease is renewed.
    let _: Vec<(String, f64)> = take.query_async(&mut inside.client).await.expect("redis answers");
    let mut mark = redis::cmd("HSET");
    mark.arg(format!("orchestrator:task:{id}")).arg("status").arg("in_progress");
    let _: u64 = mark.query_async(&mut inside.client).await.expect("redis answers");
    for _ in 0..2 * 40 * 60 {
        clock.advance(STEP);
        tokio::task::yield_now().await;
        if clock.monotonic().as_millis() % 10_000 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(inside.queued().await, Vec::<String>::new());
    let stored =
        inside.core.tasks().stored(&TenantId::default(), &id).await.expect("the store is there");
    let stored = stored.expect("it is there").value;
    let lease = stored.lease.expect("it is held");
    assert!(lease.until > clock.now(), "held on: until {}, now {}", lease.until, clock.now());
    // Its result is imported.
    let mut data = inside.data(&id).await;
    data["status"] = json!("completed");
    data["metadata"]["result"] = json!({"fixed": true});
    let mut mark = redis::cmd("HSET");
    mark.arg(format!("orchestrator:task:{id}")).arg("status").arg("completed");
    let _: u64 = mark
        .arg("data")
        .arg(data.to_string())
        .query_async(&mut inside.client)
        .await
        .expect("it answers");
    moved_until!(clock, "home", inside.status(&id).await == Some(Status::Completed));
    assert_eq!(inside.bridge.report().fed_again, 1);
    stop.send(true).expect("it runs");
    moved_until!(clock, "ended", {
        // In-memory waits end only by a wake-up.
        inside.core.wake().wake(&Topic::Ledger(TenantId::default()));
        running.is_finished()
    });
}

#[tokio::test]
async fn a_task_cancelled_here_is_not_enqueued_again() {
    let clock = Arc::new(FakeClock::default());
    let feed = ExportSettings { agents: [Agent::Dev].into(), ..ExportSettings::default() };
    let mut inside = Inside::new(clock.clone(), Settings { feed, ..Settings::default() }).await;
    let id = inside.core.tasks().create(bugfix()).await.expect("it is accepted").task.task.id;
    let (stop, stopped) = watch::channel(false);
    let bridge = inside.bridge.clone();
    let running = tokio::spawn(async move { bridge.run(stopped).await });
    moved_until!(clock, "exported", inside.queued().await == [id.to_string()]);
    let mut take = redis::cmd("ZPOPMIN");
    let _: Vec<(String, f64)> =
        take.arg(QUEUE).query_async(&mut inside.client).await.expect("redis answers");
    // Nothing is recorded here, so no event reports this to the bridge.
    let tenant = TenantId::default();
    let person = Caller { name: "alex".to_owned(), role: Role::Admin, tenant, made_by: None };
    inside.core.tasks().cancel(&person, &id, None).await.expect("it is cancelled");
    for _ in 0..2 * 120 {
        clock.advance(STEP);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(inside.queued().await, Vec::<String>::new());
    assert_eq!(inside.bridge.report().fed_again, 0);
    stop.send(true).expect("it runs");
    moved_until!(clock, "ended", {
        inside.core.wake().wake(&Topic::Ledger(TenantId::default()));
        running.is_finished()
    });
}

#[tokio::test]
async fn a_functions_round_claims_queued_and_abandoned_tasks() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let drain = Some(Drain::Agents([Agent::Ops].into()));
    let mut inside = Inside::new(clock, Settings { drain, ..Settings::default() }).await;
    queue::enqueue(&mut inside.client, 0..20).await;
    // Claimed by a bridge that died a while ago: its lease has expired.
    let mut pipe = redis::pipe();
    queue::put(&mut pipe, "left", &queue::data("left", json!({})));
    pipe.cmd("ZREM")
        .arg(QUEUE)
        .arg("left")
        .ignore()
        .cmd("ZADD")
        .arg(TAKEN)
        .arg(1)
        .arg("left")
        .ignore();
    pipe.exec_async(&mut inside.client).await.expect("redis takes it");
    let report = inside.bridge.round(Duration::from_millis(600), None).await;
    assert_eq!((report.taken, report.retaken, report.connection), (21, 1, "connected"));
    assert_eq!(queue::left(&mut inside.client).await.expect("it answers"), (0, 0, 21));
    for id in (0..20).map(queue::id).chain(["left".to_owned()]) {
        let id = TaskId::parse(&id).expect("an id");
        assert_eq!(inside.status(&id).await, Some(Status::Assigned), "{id}");
    }
    assert!(inside.clock.monotonic() >= Duration::from_millis(600));
}

#[tokio::test]
async fn claimed_tasks_are_finished_when_importing_stops() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let drain = Some(Drain::Finish);
    let mut inside = Inside::new(clock, Settings { drain, ..Settings::default() }).await;
    queue::enqueue(&mut inside.client, 0..3).await;
    let mut pipe = redis::pipe();
    queue::put(&mut pipe, "left", &queue::data("left", json!({})));
    pipe.cmd("ZREM").arg(QUEUE).arg("left").ignore();
    pipe.cmd("ZADD").arg(TAKEN).arg(1).arg("left").ignore();
    pipe.exec_async(&mut inside.client).await.expect("redis takes it");
    let report = inside.bridge.round(Duration::from_millis(300), None).await;
    assert_eq!((report.taken, report.retaken), (1, 1));
    assert_eq!(inside.queued().await.len(), 3, "they stay where they are");
    let left = TaskId::parse("left").expect("an id");
    assert_eq!(inside.status(&left).await, Some(Status::Assigned));
}

#[tokio::test]
async fn a_round_in_which_nothing_moves_ends_early() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let drain = Some(Drain::Agents([Agent::Ops].into()));
    let mut inside = Inside::new(clock, Settings { drain, ..Settings::default() }).await;
    queue::enqueue(&mut inside.client, 0..20).await;
    let (lasts, quiet) = (Duration::from_secs(50), Duration::from_millis(500));
    let report = inside.bridge.round(lasts, Some(quiet)).await;
    assert_eq!((report.taken, report.connection), (20, "connected"));
    let took = inside.clock.monotonic();
    assert!(took >= quiet && took < lasts / 2, "{took:?}");
}

/// Ids with characters that are special in paths are encoded here and unchanged in Redis. A task
/// that an older build stored under an unencoded id stays the same task.
#[tokio::test]
async fn a_peer_finds_its_tasks_under_its_own_ids() {
    const ODD: &str = "jobs/7 #a?b%c~2=x";
    const OLD: &str = "old/8~1";
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let drain = Some(Drain::Agents([Agent::Ops].into()));
    let mut inside = Inside::new(clock, Settings { drain, ..Settings::default() }).await;
    let raw = |id: &str| TaskId::parse(id).expect("an id");
    let metadata = Map::from_iter([("via".to_owned(), json!("redis"))]);
    let identity = Identity::Given(raw(OLD));
    let old = NewTask { task_type: TaskType::Monitor, metadata, identity, ..bugfix() };
    inside.core.tasks().create(old).await.expect("it is taken");
    let mut pipe = redis::pipe();
    for id in [ODD, OLD] {
        queue::put(&mut pipe, id, &queue::data(id, json!({})));
    }
    pipe.exec_async(&mut inside.client).await.expect("redis takes it");
    let report = inside.bridge.round(Duration::from_millis(600), None).await;
    assert_eq!((report.taken, report.connection), (2, "connected"));
    let here = TaskId::parse("jobs=2F7 =23a=3Fb=25c=7E2=3Dx").expect("an id");
    let person = Caller::new("alex", Role::Admin, TenantId::default());
    for (id, other) in [(&here, raw(ODD)), (&raw(OLD), raw("old=2F8=7E1"))] {
        assert_eq!(inside.status(id).await, Some(Status::Assigned), "{id}");
        assert_eq!(inside.status(&other).await, None, "{other} is no task of its own");
        inside.core.tasks().cancel(&person, id, None).await.expect("it is open");
    }
    inside.bridge.round(Duration::from_millis(600), None).await;
    for id in [ODD, OLD] {
        let data = inside.data(&raw(id)).await;
        assert_eq!((&data["status"], &data["task_id"]), (&json!("cancelled"), &json!(id)));
    }
}
