//! Lists of old, large and hostile data over HTTP: the latency of an honest caller next to
//! callers that read them without pause.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_core::service::{Core, Governance, NewEvent, NewTask, StatusChange};
use watchbill_domain::{Agent, Caller, Role, Status, TaskId, TaskType, TenantId, hash_key};
use watchbill_governance::Policy;
use watchbill_host::clock::SystemClock;
use watchbill_local::bundle::{Bundle, Settings};

use super::{Nothing, plain};

const KEY: &str = "bench-key";
/// Calls of the honest caller in each round.
const CALLS: u64 = 400;
/// Callers next to it, each reading without pause.
const HEAVY: usize = 4;
/// Tasks with large bodies: together far more than a page.
const LARGE: u64 = 200;
const LARGE_BYTES: usize = 96 * 1024;
/// Events that a search for another type reads through.
const EVENTS: u64 = 3_000;
const EVENT_BYTES: usize = 8 * 1024;
/// Changes of the one task that has many.
const CHANGES: u64 = 1_000;

/// The lists that heavy callers read, with their names in the report.
const LISTS: &[(&str, &str)] = &[
    ("tasks", "/tasks?limit=200"),
    ("events", "/events?type=pr.merged&limit=200"),
    ("audit", "/audit?actor=nobody&limit=200"),
    ("timeline", "/tasks/{many}/timeline"),
    ("stats", "/stats"),
];

pub async fn run(folder: &Path) -> anyhow::Result<Value> {
    let governance = Governance::fixed(Policy::without_gates());
    let rules = EngineConfig { external: [Agent::Dev].into(), ..EngineConfig::default() };
    let settings = Settings { governance, rules, ..Settings::default() };
    let bundle =
        Bundle::start(folder, settings, |_| vec![Arc::new(Nothing { governed: true })]).await?;
    let (small, many) = fill(&bundle.core).await?;
    while bundle.lag().recorder > 0 {
        bundle.core.clock().sleep(Duration::from_millis(50)).await;
    }
    let (url, server) = serve(&bundle.core).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut report = Map::new();
    let alone = honest(&client, &format!("{url}/tasks/{small}")).await?;
    put(&mut report, "alone", &alone);
    for (name, path) in LISTS {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let list = format!("{url}{}", path.replace("{many}", many.as_str()));
        let heavy: Vec<_> = (0..HEAVY)
            .map(|_| tokio::spawn(follow(client.clone(), list.clone(), stop.clone(), read.clone())))
            .collect();
        // Wait until their first responses have arrived.
        while read.load(Ordering::Relaxed) == 0 {
            bundle.core.clock().sleep(Duration::from_millis(10)).await;
        }
        let beside = honest(&client, &format!("{url}/tasks/{small}")).await?;
        put(&mut report, name, &beside);
        stop.store(true, Ordering::Relaxed);
        let mut largest = 0;
        for caller in heavy {
            largest = largest.max(caller.await??);
        }
        report.insert(format!("{name}_largest_bytes"), json!(largest));
    }
    server.abort();
    bundle.stop(Duration::from_secs(30)).await;
    Ok(Value::Object(report))
}

fn put(report: &mut Map<String, Value>, name: &str, waits: &[u64]) {
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    report.insert(format!("{name}_p50_us"), json!(at(50)));
    report.insert(format!("{name}_p99_us"), json!(at(99)));
}

/// Makes small reads one after the other. Returns the sorted latencies in microseconds.
async fn honest(client: &reqwest::Client, url: &str) -> anyhow::Result<Vec<u64>> {
    let clock = SystemClock::new();
    let mut waits = Vec::new();
    for _ in 0..CALLS {
        let begun = clock.monotonic();
        let answer = client.get(url).header("X-API-Key", KEY).send().await?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        answer.bytes().await?;
        waits.push((clock.monotonic() - begun).as_micros() as u64);
    }
    waits.sort_unstable();
    Ok(waits)
}

/// Reads a list page by page, over and over. Returns the bytes of the largest page.
async fn follow(
    client: reqwest::Client,
    list: String,
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
) -> anyhow::Result<usize> {
    let (mut cursor, mut largest) = (None::<String>, 0);
    while !stop.load(Ordering::Relaxed) {
        let joint = if list.contains('?') { '&' } else { '?' };
        let url = match &cursor {
            None => list.clone(),
            Some(cursor) => format!("{list}{joint}cursor={cursor}"),
        };
        let answer = client.get(&url).header("X-API-Key", KEY).send().await?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        let body = answer.bytes().await?;
        largest = largest.max(body.len());
        let page: Value = serde_json::from_slice(&body)?;
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        read.fetch_add(1, Ordering::Relaxed);
    }
    Ok(largest)
}

async fn serve(
    core: &Core,
) -> anyhow::Result<(String, tokio::task::JoinHandle<std::io::Result<()>>)> {
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
    let router = watchbill_api::router(ApiState::new(core.clone(), config)?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        stream.set_nodelay(true).expect("a loopback socket supports TCP_NODELAY");
    });
    Ok((url, tokio::spawn(axum::serve(listener, router).into_future())))
}

fn caller() -> Caller {
    Caller {
        name: "bench".to_owned(),
        role: Role::Admin,
        tenant: TenantId::default(),
        made_by: None,
    }
}

fn text(bytes: usize) -> Map<String, Value> {
    let line = "2026-01-31T08:00:00Z GET https://shop.example/cart 200 in 12 ms\n";
    let text: String = line.chars().cycle().take(bytes).collect();
    Map::from_iter([("log".to_owned(), Value::from(text))])
}

/// Creates old and large data, a small task, and a task with many changes. Returns the two
/// tasks.
async fn fill(core: &Core) -> anyhow::Result<(TaskId, TaskId)> {
    let caller = caller();
    for n in 0..EVENTS {
        let new = NewEvent {
            tenant: TenantId::default(),
            event_type: "ci.passed".to_owned(),
            source_agent: "ci".to_owned(),
            payload: text(EVENT_BYTES),
            task_id: None,
            trace_id: None,
            priority: None,
            published_by: "bench".to_owned(),
            event_id: Some(format!("bench-{n}")),
            hops: 0,
        };
        core.events().publish(new).await.context("publishing")?;
    }
    let outside = || NewTask { task_type: TaskType::Bugfix, ..plain() };
    for _ in 0..LARGE {
        let new = NewTask { payload: text(LARGE_BYTES), ..outside() };
        let id = core.tasks().create(new).await?.task.task.id;
        let result = Some(text(LARGE_BYTES));
        let done = StatusChange { status: Status::Completed, error: None, result };
        core.tasks().set_status(&caller, &id, done).await?;
    }
    let many = core.tasks().create(outside()).await?.task.task.id;
    for n in 0..CHANGES / 3 {
        let change = |status| StatusChange { status, error: Some(format!("{n}")), result: None };
        core.tasks().set_status(&caller, &many, change(Status::InProgress)).await?;
        core.tasks().set_status(&caller, &many, change(Status::Blocked)).await?;
        core.tasks().answer(&caller, &many, "go on".to_owned()).await?;
    }
    let small = core.tasks().create(plain()).await?.task.task.id;
    Ok((small, many))
}
