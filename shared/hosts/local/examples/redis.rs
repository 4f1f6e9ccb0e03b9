//! Load over Redis on the bundle within one process, for `cargo xtask bench redis`. Prints one
//! JSON object.
//!
//! `redis drain URL DIR TASKS`: waiting tasks of the queue, until the last is finished there.
//! `redis one URL DIR TASKS`: one task at a time, from its enqueuing to the start of its run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use watchbill_core::ports::Clock;
use watchbill_domain::{Agent, TenantId};
use watchbill_host::clock::SystemClock;
use watchbill_host::entropy::SystemEntropy;
use watchbill_local::bundle::{Bundle, Settings};
use watchbill_redis::{RedisLegacyQueue, RedisOptions};
use watchbill_redis_bridge::{Bridge, BridgeContext, CoreBackend, Drain, Settings as Directions};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const QUEUE: &str = "orchestrator:tasks";
const PROCESSING: &str = "orchestrator:tasks:processing";
/// How many tasks are enqueued in one pipeline.
const PIPE: usize = 1_000;

/// An agent that only records when its run started.
struct Nothing {
    clock: Arc<dyn Clock>,
    began: Arc<Mutex<HashMap<String, Duration>>>,
}

#[async_trait]
impl TaskAgent for Nothing {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    fn is_implemented(&self) -> bool {
        true
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        let now = self.clock.monotonic();
        let id = run.task.id.to_string();
        self.began.lock().expect("no thread panics while it holds the lock").insert(id, now);
        let mut result = Map::new();
        result.insert("success".into(), Value::from(true));
        RunOutcome::Done { result, events: Vec::new() }
    }
}

/// The bundle with its bridge.
struct World {
    bundle: Bundle,
    clock: Arc<dyn Clock>,
    began: Arc<Mutex<HashMap<String, Duration>>>,
    stop: watch::Sender<bool>,
    bridge: JoinHandle<()>,
    redis: MultiplexedConnection,
}

impl World {
    async fn start(url: &str, folder: &Path) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let began = Arc::new(Mutex::new(HashMap::new()));
        let agent = Nothing { clock: clock.clone(), began: began.clone() };
        let settings = Settings::default();
        let bundle = Bundle::start(folder, settings, |_| vec![Arc::new(agent)]).await?;
        let entropy = Arc::new(SystemEntropy);
        let legacy =
            RedisLegacyQueue::open(url, RedisOptions::new(clock.clone(), entropy.clone()))?;
        let backend = CoreBackend::new(bundle.core.clone(), TenantId::default(), vec![Agent::Ops]);
        let context = BridgeContext {
            backend: Arc::new(backend),
            legacy: Arc::new(legacy),
            clock: clock.clone(),
            entropy,
            host: "bench".to_owned(),
        };
        let drain = Some(Drain::Agents([Agent::Ops].into()));
        let bridge = Bridge::new(context, Directions { drain, ..Directions::default() });
        let (stop, stopped) = watch::channel(false);
        let bridge = tokio::spawn(async move { bridge.run(stopped).await });
        let client = redis::Client::open(url)?;
        let redis = client.get_multiplexed_async_connection().await?;
        Ok(Self { bundle, clock, began, stop, bridge, redis })
    }

    async fn end(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        self.bridge.await?;
        self.bundle.stop(Duration::from_secs(10)).await;
        Ok(())
    }
}

fn task(n: u64) -> (String, String) {
    let id = format!("{n:08}-0d0a-4f3e-9a52-0e0c9f3f8a11");
    let data = json!({
        "task_id": id, "type": "monitor", "priority": "P2", "source": "user",
        "status": "assigned", "payload": {"service": "system"}, "trace_id": format!("trace-{n}"),
        "sla": null, "assigned_to": "ops", "created_at": "2026-01-31T08:00:00.000000+00:00",
        "started_at": null, "completed_at": null, "parent_task_id": null, "child_task_ids": [],
        "metadata": {}, "error": null, "retry_count": 0, "max_retries": 3,
    });
    (id, data.to_string())
}

async fn enqueue(
    redis: &mut MultiplexedConnection,
    tasks: &[(String, String)],
) -> anyhow::Result<()> {
    let mut pipe = redis::pipe();
    for (id, data) in tasks {
        let key = format!("orchestrator:task:{id}");
        let created = "2026-01-31T08:00:00.000000+00:00";
        pipe.cmd("HSET").arg(key).arg("data").arg(data).arg("status").arg("assigned");
        pipe.arg("created_at").arg(created).arg("priority").arg("P2").ignore();
        pipe.cmd("ZADD").arg(QUEUE).arg(3).arg(id).ignore();
    }
    pipe.exec_async(redis).await.context("enqueuing")
}

async fn drain(url: &str, folder: &Path, tasks: u64) -> anyhow::Result<Value> {
    let client = redis::Client::open(url)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let all: Vec<(String, String)> = (0..tasks).map(task).collect();
    for some in all.chunks(PIPE) {
        enqueue(&mut redis, some).await?;
    }
    let mut world = World::start(url, folder).await?;
    let from = world.clock.monotonic();
    loop {
        let (queued, worked_on): (u64, u64) = redis::pipe()
            .cmd("ZCARD")
            .arg(QUEUE)
            .cmd("SCARD")
            .arg(PROCESSING)
            .query_async(&mut world.redis)
            .await?;
        if queued + worked_on == 0 {
            break;
        }
        let took = world.clock.monotonic() - from;
        ensure!(took < Duration::from_secs(300), "{queued} queued, {worked_on} worked on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = world.clock.monotonic() - from;
    for some in all.chunks(PIPE) {
        let mut pipe = redis::pipe();
        for (id, _) in some {
            pipe.cmd("HGET").arg(format!("orchestrator:task:{id}")).arg("status");
        }
        let statuses: Vec<Option<String>> = pipe.query_async(&mut world.redis).await?;
        ensure!(
            statuses.iter().all(|one| one.as_deref() == Some("completed")),
            "not all completed"
        );
    }
    world.end().await?;
    Ok(json!({ "tasks_per_second": tasks as f64 / took.as_secs_f64() }))
}

async fn one(url: &str, folder: &Path, tasks: u64) -> anyhow::Result<Value> {
    let mut world = World::start(url, folder).await?;
    let mut waits = Vec::new();
    for n in 0..tasks {
        let (id, data) = task(n);
        let from = world.clock.monotonic();
        enqueue(&mut world.redis, &[(id.clone(), data)]).await?;
        let published: Result<u64, _> = redis::cmd("PUBLISH")
            .arg("orchestrator:events:task.created")
            .arg(json!({"event_type": "task.created", "task_id": id}).to_string())
            .query_async(&mut world.redis)
            .await;
        published.context("publishing task.created")?;
        let began = loop {
            if let Some(at) =
                world.began.lock().expect("no thread panics while it holds the lock").get(&id)
            {
                break *at;
            }
            ensure!(world.clock.monotonic() - from < Duration::from_secs(10), "{id} did not start");
            tokio::time::sleep(Duration::from_micros(200)).await;
        };
        waits.push(began.saturating_sub(from));
        // Varies the interval, so that it is not in step with a timer of the bridge.
        tokio::time::sleep(Duration::from_millis(3 + n % 17)).await;
    }
    waits.sort_unstable();
    world.end().await?;
    let micros = |share: usize| waits[waits.len() * share / 100].as_micros() as u64;
    Ok(json!({ "p50_us": micros(50), "p99_us": micros(99) }))
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, url, folder, tasks] = args.as_slice() else {
        bail!("usage: redis drain|one URL DIR TASKS");
    };
    let tasks: u64 = tasks.parse().with_context(|| format!("'{tasks}' is not a number"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = match what.as_str() {
        "drain" => runtime.block_on(drain(url, Path::new(folder), tasks)),
        "one" => runtime.block_on(one(url, Path::new(folder), tasks)),
        other => bail!("'{other}' is not drain or one"),
    }?;
    println!("{report}");
    Ok(())
}
