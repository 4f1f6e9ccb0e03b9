//! Load on the bundle within one process, for `cargo xtask bench`. Prints one JSON object.
//!
//! `load store DIR IN_FLIGHT TASKS`: the store alone, three commits per task.
//! `load tasks DIR IN_FLIGHT TASKS`: submit → completed with an agent that does nothing.
//! `load bare DIR IN_FLIGHT TASKS`: the same without governance, to measure its cost.
//! `load one DIR TASKS`: the same over HTTP, one task at a time.
//! `load lists DIR`: lists of old, large and hostile data over HTTP, next to an honest caller.
//! `load fill DIR TASKS`: finished tasks, 256 at a time, as data for later measurements.

#[path = "load/lists.rs"]
mod lists;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::ports::{Clock as _, Topic};
use watchbill_core::repo::task_key;
use watchbill_core::service::Governance;
use watchbill_core::service::{Core, Identity, NewTask};
use watchbill_domain::{Agent, Priority, Role, TaskType, TenantId, hash_key};
use watchbill_governance::Policy;
use watchbill_host::clock::SystemClock;
use watchbill_host::entropy::SystemEntropy;
use watchbill_local::bundle::{Bundle, Settings};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};
use watchbill_sqlite::sqlite::{Options, SqliteStore};
use watchbill_testkit::store_loop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `governed`: each claim is authorized by governance, as for every agent that acts.
struct Nothing {
    governed: bool,
}

#[async_trait]
impl TaskAgent for Nothing {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    fn is_implemented(&self) -> bool {
        self.governed
    }

    async fn run(&self, _run: &Run) -> RunOutcome {
        let mut result = Map::new();
        result.insert("success".into(), Value::from(true));
        RunOutcome::Done { result, events: Vec::new() }
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> anyhow::Result<u64> {
        let text = args.get(at).context("a number is missing")?;
        text.parse().with_context(|| format!("'{text}' is not a number"))
    };
    let folder = args.get(1).context("the folder is missing")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = match args[0].as_str() {
        "store" => runtime.block_on(store(Path::new(folder), number(2)? as usize, number(3)?)),
        "tasks" => {
            runtime.block_on(tasks(Path::new(folder), number(2)? as usize, number(3)?, true))
        }
        "bare" => {
            runtime.block_on(tasks(Path::new(folder), number(2)? as usize, number(3)?, false))
        }
        "one" => runtime.block_on(one(Path::new(folder), number(2)?)),
        "lists" => runtime.block_on(lists::run(Path::new(folder))),
        "fill" => runtime.block_on(tasks(Path::new(folder), 256, number(2)?, true)),
        other => bail!("'{other}' is not store, tasks, bare, one, lists or fill"),
    }?;
    println!("{report}");
    Ok(())
}

async fn store(folder: &Path, in_flight: usize, tasks: u64) -> anyhow::Result<Value> {
    let store = Arc::new(SqliteStore::open(folder, Options::default())?);
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let report = store_loop(store.clone(), clock, entropy, in_flight, tasks).await;
    store.close().await;
    Ok(json!({
        "tasks_per_second": report.tasks_per_second,
        "commit_p50_us": report.p50.as_micros() as u64,
        "commit_p99_us": report.p99.as_micros() as u64,
    }))
}

async fn tasks(
    folder: &Path,
    in_flight: usize,
    tasks: u64,
    governed: bool,
) -> anyhow::Result<Value> {
    let policy = if governed { Policy::default() } else { Policy::without_gates() };
    let governance = Governance::fixed(policy);
    let settings = Settings { governance, slots: in_flight, ..Settings::default() };
    let bundle = Bundle::start(folder, settings, |_| vec![Arc::new(Nothing { governed })]).await?;
    let clock = SystemClock::new();
    let next = Arc::new(AtomicU64::new(0));
    let submitters: Vec<_> = (0..in_flight)
        .map(|_| tokio::spawn(submit_and_wait(bundle.core.clone(), next.clone(), tasks)))
        .collect();
    let mut waits = Vec::new();
    for submitter in submitters {
        waits.extend(submitter.await??);
    }
    let elapsed = clock.monotonic();
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    let report = json!({
        "tasks_per_second": tasks as f64 / elapsed.as_secs_f64(),
        "p50_us": at(50),
        "p99_us": at(99),
        "feed_lag": bundle.lag().recorder,
        "rss_mb": resident_mb(),
    });
    bundle.stop(Duration::from_secs(30)).await;
    Ok(report)
}

async fn submit_and_wait(core: Core, next: Arc<AtomicU64>, tasks: u64) -> anyhow::Result<Vec<u64>> {
    let mut waits = Vec::new();
    while next.fetch_add(1, Ordering::Relaxed) < tasks {
        let begun = core.clock().monotonic();
        let task = core.tasks().create(plain()).await?.task.task;
        let topic = Topic::Task(task.tenant.clone(), task.id.clone());
        let key = task_key(&task.tenant, &task.id);
        loop {
            let mark = core.wake().mark(&topic);
            let item = core.store().get(&key).await?.context("the task's item is missing")?;
            // An open task is due; a finished one is not.
            if item.due.is_none() {
                break;
            }
            core.wake().wait(&topic, mark, Duration::from_secs(10)).await;
        }
        waits.push((core.clock().monotonic() - begun).as_micros() as u64);
    }
    Ok(waits)
}

/// POST, then wait for the task by GET, on one connection.
async fn one(folder: &Path, tasks: u64) -> anyhow::Result<Value> {
    const KEY: &str = "bench-key";
    let governance = Governance::fixed(Policy::without_gates());
    let settings = Settings { governance, ..Settings::default() };
    let bundle =
        Bundle::start(folder, settings, |_| vec![Arc::new(Nothing { governed: true })]).await?;
    let key = StaticKey {
        name: "bench".to_owned(),
        key_hash: hash_key(KEY),
        role: Role::Admin,
        tenant: TenantId::default(),
    };
    let config = ApiConfig {
        static_keys: vec![key],
        rate_limits: RateLimits::parse("off")?,
        ..ApiConfig::default()
    };
    let router = watchbill_api::router(ApiState::new(bundle.core.clone(), config)?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/tasks", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        stream.set_nodelay(true).expect("a loopback socket supports TCP_NODELAY");
    });
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let clock = SystemClock::new();
    let mut waits = Vec::new();
    for _ in 0..tasks {
        let begun = clock.monotonic();
        let body = r#"{"type":"monitor","payload":{"service":"system"}}"#;
        let post = client.post(&url).header("X-API-Key", KEY).body(body);
        let mut task: Value = serde_json::from_str(&post.send().await?.text().await?)?;
        while task["task"]["status"] != "completed" {
            let (id, version) = (&task["task"]["task_id"], &task["task"]["version"]);
            let id = id.as_str().context("no task_id")?;
            let get = client.get(format!("{url}/{id}?wait=20&version={version}"));
            let text = get.header("X-API-Key", KEY).send().await?.text().await?;
            task = serde_json::from_str(&text)?;
        }
        waits.push((clock.monotonic() - begun).as_micros() as u64);
    }
    server.abort();
    bundle.stop(Duration::from_secs(30)).await;
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    Ok(json!({ "p50_us": at(50), "p99_us": at(99) }))
}

fn plain() -> NewTask {
    let mut payload = Map::new();
    payload.insert("service".into(), Value::from("system"));
    NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Monitor,
        priority: Priority::P2,
        source: "user".to_owned(),
        payload,
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "bench".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Fresh,
        hops: 0,
    }
}

/// Resident memory of this process in MB, if the system reports it.
fn resident_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}
