//! What a task costs on AWS: units are counted, then priced by the public list. Prints the table
//! of docs/benchmarks.md and writes it to `cost.md` in the target folder.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;
use watchbill_alerts::StoredAlerts;
use watchbill_catalog::OpsPorts;
use watchbill_core::service::Core;
use watchbill_host::{clock::SystemClock, system::LocalSystem};
use watchbill_ops_agent::OpsAgent;
use watchbill_runtime::history::TaskHistory;
use watchbill_runtime::run::TaskAgent;

use super::cost_model::Place;
use super::count::{Counted, Fill, Function, Line};
use super::peer::Idle;

/// The tasks of two seconds at 100 tasks/s.
const TOGETHER: usize = 200;
const ALONE: usize = 10;
/// Tasks of the ops agent: enough to fill its history of recent tasks.
const MONITORS: usize = 100;

const FUNCTIONS: [Function; 4] =
    [Function::Api, Function::Router, Function::Agent, Function::Recorder];

const MAX_WRITE_UNITS: f64 = 7.0;
const MAX_USD: f64 = 10.0;

/// A list price in us-east-1, in USD per million, without free tiers or volume discounts: the
/// public pricing pages of Amazon DynamoDB, Amazon SQS, Amazon EventBridge, AWS Lambda and
/// Amazon CloudWatch in 2026.
struct Price {
    what: &'static str,
    usd: f64,
}

/// On demand.
const WRITES: Price = Price { what: "DynamoDB write units", usd: 0.625 };
const READS: Price = Price { what: "DynamoDB read units", usd: 0.125 };
/// 0.25 per GB and month, plus 0.20 for point-in-time recovery.
const STORED: Price = Price { what: "KB kept there 30 days", usd: 0.45 };
/// 0.40 for standard queues, plus 0.10 because their messages have a group.
const SQS: Price = Price { what: "SQS requests", usd: 0.50 };
const EVENTS: Price = Price { what: "EventBridge events", usd: 1.00 };
const RUNS: Price = Price { what: "Lambda invocations", usd: 0.20 };
/// On arm64.
const RUNNING: Price = Price { what: "Lambda GB-seconds", usd: 13.3334 };
/// At level `warn`, as in the template.
const LOGGED: Price = Price { what: "KB of logs", usd: 0.50 };

struct Row {
    price: &'static Price,
    number: f64,
}

impl Row {
    /// For a million tasks.
    fn usd(&self) -> f64 {
        self.number * self.price.usd
    }
}

/// The average units of one task.
fn rows(counted: &Counted, logged: usize) -> Vec<Row> {
    let tasks = counted.tasks.len() as f64;
    let row = |price, number: f64| Row { price, number: number / tasks };
    vec![
        row(&WRITES, counted.write_units()),
        row(&READS, counted.read_units()),
        row(&STORED, counted.stored as f64 / 1e3),
        row(&SQS, counted.sqs),
        row(&EVENTS, counted.events),
        row(&RUNS, counted.invocations.len() as f64),
        row(&RUNNING, gb_seconds(counted)),
        row(&LOGGED, logged as f64 / 1e3),
    ]
}

/// Uses the median of each function, because the test machine does other work at the same time.
fn gb_seconds(counted: &Counted) -> f64 {
    let of = |function: Function| {
        let (number, median) = times(counted, function);
        number as f64 * median.as_millis().max(1) as f64 / 1e3 * memory(function) / 1024.0
    };
    FUNCTIONS.into_iter().map(of).sum()
}

/// The number of invocations of a function and their median duration.
fn times(counted: &Counted, function: Function) -> (usize, Duration) {
    let of_it = counted.invocations.iter().filter(|(f, _)| *f == function);
    let mut times: Vec<Duration> = of_it.map(|(_, took)| *took).collect();
    times.sort();
    (times.len(), times.get(times.len() / 2).copied().unwrap_or_default())
}

fn sum(rows: &[Row]) -> f64 {
    rows.iter().map(Row::usd).sum()
}

/// Memory in MB: the template's default.
fn memory(function: Function) -> f64 {
    let parameter = match function {
        Function::Api => "ApiMemory",
        Function::Router | Function::Recorder => "FeedMemory",
        Function::Agent => "AgentMemory",
    };
    let template = include_str!("../../template.yaml");
    let mut lines = template.lines().skip_while(|line| line.trim() != format!("{parameter}:"));
    let default = lines.find_map(|line| line.trim().strip_prefix("Default: "));
    default.and_then(|mb| mb.parse().ok()).unwrap_or_else(|| panic!("no default of {parameter}"))
}

/// Counts logged bytes.
#[derive(Clone, Default)]
struct Log(Arc<AtomicUsize>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(line.len(), Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Runs on one thread, so that every log line is counted here.
#[tokio::test]
async fn a_plain_task_costs_seven_write_units_and_ten_dollars_a_million_at_most() {
    let log = Log::default();
    let json = tracing_subscriber::fmt().json().with_max_level(LevelFilter::WARN);
    let _guard = json.with_writer(log.clone()).set_default();
    let mut line = Line::new(|_| Arc::new(Idle)).await;
    // What an instance does only once is not counted as the cost of a task.
    line.pass(10, Fill::BUSY).await;
    log.take();
    let plain = line.pass(TOGETHER, Fill::BUSY).await;
    let busy = rows(&plain, log.take());
    let singly = line.pass(TOGETHER, Fill { lane: 1, ..Fill::BUSY }).await;
    let singly = rows(&singly, log.take());
    let tenants = Fill { tenants: 100, ..Fill::BUSY };
    line.pass(tenants.tenants, tenants).await;
    log.take();
    let many = line.pass(TOGETHER, tenants).await;
    let many = rows(&many, log.take());
    let alone = line.one_by_one(ALONE).await;
    let alone = rows(&alone, log.take());
    line.remove().await;

    let mut line = Line::new(ops_agent).await;
    line.pass(MONITORS, Fill::BUSY).await;
    log.take();
    let monitors = line.pass(MONITORS, Fill::BUSY).await;
    let monitor = rows(&monitors, log.take());
    line.remove().await;

    let lines = [
        ("plain, 100/s", &busy),
        ("plain, 100/s, each message alone in its batch", &singly),
        ("plain, 100/s of 100 tenants", &many),
        ("plain, one now and then", &alone),
        ("monitor, 100/s", &monitor),
    ];
    let text = table(&lines) + &writes_of(&plain, &monitors) + &functions(&plain);
    println!("{text}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cost.md");
    std::fs::write(&path, &text).expect("the target folder can be written");
    let (units, usd) = (busy[0].number, sum(&busy));
    assert!(units <= MAX_WRITE_UNITS, "{units:.2} write units a plain task\n{text}");
    assert!(usd <= MAX_USD, "{usd:.2} USD for a million plain tasks\n{text}");
}

/// Wired as in its function, but without probes: no external call is made.
fn ops_agent(core: &Core) -> Arc<dyn TaskAgent> {
    Arc::new(OpsAgent::new(OpsPorts {
        metrics: Some(Arc::new(LocalSystem::new(Arc::new(SystemClock::new())))),
        probes: None,
        logs: None,
        history: Some(Arc::new(TaskHistory::new(core.clone()))),
        alerts: Some(Arc::new(StoredAlerts::new(core.clone()))),
    }))
}

/// What each kind of task is billed for, and the price of a million of them.
fn table(lines: &[(&str, &Vec<Row>)]) -> String {
    let mut text = String::from("| a task |");
    for row in lines[0].1 {
        let _ = write!(text, " {} |", row.price.what);
    }
    text += " USD a million tasks |\n|---|";
    text += &"--:|".repeat(lines[0].1.len() + 1);
    text += "\n| *USD a million of it* |";
    for row in lines[0].1 {
        let _ = write!(text, " *{}* |", row.price.usd);
    }
    text += " |\n";
    for (name, rows) in lines {
        let _ = write!(text, "| {name} |");
        for Row { number, .. } in *rows {
            let digits = if *number < 0.1 { 4 } else { 2 };
            let _ = write!(text, " {number:.digits$} |");
        }
        let _ = writeln!(text, " **{:.2}** |", sum(rows));
    }
    text
}

/// How the write units of a task are distributed.
fn writes_of(plain: &Counted, monitor: &Counted) -> String {
    let mut text = String::from(
        "\n| write units of a task | plain, 100/s | monitor, 100/s |\n|---|--:|--:|\n",
    );
    let of = |counted: &Counted, kind: &str, place: Place| {
        let loads = counted.loads.iter().filter(|load| load.kind == kind && load.place == place);
        loads.map(|load| load.writes).sum::<f64>() / counted.tasks.len() as f64
    };
    let mut seen = Vec::new();
    for load in plain.loads.iter().chain(&monitor.loads).filter(|load| load.writes > 0.0) {
        if !seen.contains(&(load.kind.clone(), load.place)) {
            seen.push((load.kind.clone(), load.place));
        }
    }
    for (kind, place) in seen {
        let (one, other) = (of(plain, &kind, place), of(monitor, &kind, place));
        let _ = writeln!(text, "| {kind}, {place:?} | {one:.2} | {other:.2} |");
    }
    text
}

/// The median duration of each function on this machine.
fn functions(counted: &Counted) -> String {
    let mut text = String::from("\n| function | invocations a task | median |\n|---|--:|--:|\n");
    for function in FUNCTIONS {
        let (number, median) = times(counted, function);
        let (share, ms) = (number as f64 / counted.tasks.len() as f64, median.as_secs_f64() * 1e3);
        let _ = writeln!(text, "| {function:?} | {share:.2} | {ms:.1} ms |");
    }
    text
}
