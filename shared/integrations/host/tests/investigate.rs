//! An investigation over real files of several formats, from the log folder to the report.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{Status, TaskId, TaskType, TimeRange, Timestamp};
use watchbill_host::log_files::LogFolders;
use watchbill_investigation::{
    InvestigateParameters, LogFiles, LogRequest, LogScan, Observations, read_logs, report,
};
use watchbill_monitoring::{SystemSample, Thresholds};
use watchbill_runtime::evidence::TaskSummary;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn now() -> Timestamp {
    at("2026-01-02T12:00:00Z")
}

fn write_logs(folder: &Path) {
    let mut app = String::from("2026-01-02 10:30:00,000 INFO [main] started\n");
    // Known noise, as frequent before the range as in it.
    for minute in 0..50 {
        app += &format!(
            "2026-01-02 10:{minute:02}:10,000 ERROR [job] mail to u{minute}@example.com bounced\n"
        );
        app += &format!(
            "2026-01-02 11:{minute:02}:10,000 ERROR [job] mail to v{minute}@example.com bounced\n"
        );
    }
    for n in 0..40 {
        app += &format!(
            "2026-01-02 11:25:{n:02},000 ERROR [http-{n}] payment failed password=hunter{n}\n\
             java.lang.NullPointerException: card is null\n\
             \tat java.util.Map.get(Map.java:1)\n\
             \tat com.example.Cart.pay(Cart.java:42)\n"
        );
    }
    fs::write(folder.join("app.log"), app).unwrap();

    let mut api = String::new();
    for n in 0..60 {
        api += &json!({"ts": format!("2026-01-02T11:2{}:{:02}Z", 6 + n / 30, n % 30), "level": "error",
            "msg": format!("dial tcp 10.0.0.5:5432: connect: connection refused (try {n})"), "service": "api"})
        .to_string();
        api.push('\n');
    }
    let file = fs::File::create(folder.join("api.jsonl.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(api.as_bytes()).unwrap();
    packed.finish().unwrap();

    let access = "10.1.1.1 - - [02/Jan/2026:11:30:00 +0000] \"GET /pay HTTP/1.1\" 502 12 \"-\" \"curl\"\n\
        10.1.1.1 - - [02/Jan/2026:11:30:01 +0000] \"GET / HTTP/1.1\" 200 12 \"-\" \"curl\"\n";
    fs::write(folder.join("access.log"), access).unwrap();
    fs::write(folder.join("syslog"), "Jan  2 11:40:00 host cron[1]: job done\n").unwrap();
}

async fn scanned(folder: &Path, range: TimeRange) -> LogScan {
    let (from, to) = range.resolve(now());
    let request = LogRequest {
        paths: Vec::new(),
        since: from.minus(to.since(from)),
        bytes_per_file: 1 << 20,
        bytes_in_all: 1 << 24,
    };
    LogFolders::new(vec![folder.to_owned()]).in_zone(0).read(request).await.unwrap()
}

fn asked(range: TimeRange) -> InvestigateParameters {
    InvestigateParameters {
        issue: "payments fail".into(),
        range: Some(range),
        paths: Vec::new(),
        service: None,
    }
}

fn task(id: &str, task_type: TaskType, ended: &str, result: Option<Value>) -> TaskSummary {
    TaskSummary {
        task_id: TaskId::parse(id).unwrap(),
        task_type,
        status: Status::Completed,
        title: format!("task {id}"),
        created_at: at(ended).minus(Duration::from_secs(60)),
        finished_at: Some(at(ended)),
        error: None,
        result: result.and_then(|value| value.as_object().cloned()),
    }
}

fn healthy() -> SystemSample {
    SystemSample {
        at: now(),
        cpu_percent: 12.0,
        cores: 2,
        memory_total: 100,
        memory_used: 40,
        swap_total: 0,
        swap_used: 0,
        disks: Vec::new(),
        load: [0.1, 0.1, 0.1],
        uptime: Duration::from_secs(60),
        processes: 10,
    }
}

async fn investigated(
    folder: &Path,
    range: TimeRange,
    tasks: Vec<TaskSummary>,
) -> Map<String, Value> {
    let (from, to) = range.resolve(now());
    let mut facts = Observations::new(&asked(range), from, to, now());
    let scan = scanned(folder, range).await;
    facts.logs = Some(read_logs(&scan, from, to, now(), None));
    facts.tasks = Some(tasks);
    facts.system = Some(watchbill_monitoring::report(&healthy(), &Thresholds::DEFAULT));
    report(&facts)
}

fn causes(report: &Map<String, Value>) -> Vec<(String, f64)> {
    let told = report["causes"].as_array().unwrap().iter();
    told.map(|c| (c["cause"].as_str().unwrap().to_owned(), c["confidence"].as_f64().unwrap()))
        .collect()
}

const HOUR: TimeRange = TimeRange::Past(Duration::from_secs(3_600));

#[tokio::test]
async fn the_report_names_causes_with_their_evidence() {
    let folder = tempfile::tempdir().unwrap();
    write_logs(folder.path());
    let deploy = task("d-1", TaskType::Deploy, "2026-01-02T11:20:00Z", None);
    let down = json!({"services": [{"name": "db", "status": "down", "error": "timed out"}]});
    let monitor = task("m-1", TaskType::Monitor, "2026-01-02T11:35:00Z", Some(down));
    let report = investigated(folder.path(), HOUR, vec![deploy, monitor]).await;
    let keys: Vec<&str> = report.keys().map(String::as_str).collect();
    let mut expected =
        ["success", "findings", "causes", "ruled_out", "gaps", "patterns", "recommendations"];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);

    let causes = causes(&report);
    let confidence = |part: &str| {
        causes
            .iter()
            .find(|(cause, _)| cause.contains(part))
            .unwrap_or_else(|| panic!("{part}: {causes:?}"))
            .1
    };
    // The deployment ended five minutes before the new errors began.
    assert!(causes[0].0.contains("the deployment 'task d-1'"), "{causes:?}");
    assert!(confidence("refuses connections: 10.0.0.5:5432") > 0.4);
    assert!(confidence("com.example.Cart.pay(Cart.java:42)") > 0.4);
    assert!((confidence("'db' is down") - 0.5).abs() < 1e-9);
    assert!(causes.iter().all(|(_, c)| *c > 0.0 && *c <= 0.95), "{causes:?}");

    let patterns = report["patterns"].as_array().unwrap();
    let pattern = |part: &str| {
        patterns.iter().find(|p| p["template"].as_str().unwrap().contains(part)).unwrap()
    };
    let refused = pattern("connection refused");
    assert_eq!((&refused["count"], &refused["trend"]), (&json!(60), &json!("new")));
    assert_eq!(refused["first_seen"], "2026-01-02T11:26:00.000Z");
    let payment = pattern("payment failed");
    assert_eq!(payment["count"], 40);
    let bounced = pattern("bounced");
    assert_eq!(
        (&bounced["count"], &bounced["count_before"], &bounced["trend"]),
        (&json!(50), &json!(50), &json!("steady"))
    );
    assert_eq!(pattern("GET")["count"], 1);

    let text = Value::from(report.clone()).to_string();
    assert!(!text.contains("hunter"), "a secret leaked: {text}");
    let ruled_out = report["ruled_out"].to_string();
    assert!(ruled_out.contains("a disk is full") && ruled_out.contains("too little memory"));
}

#[tokio::test]
async fn the_range_decides_what_counts() {
    let folder = tempfile::tempdir().unwrap();
    write_logs(folder.path());
    let quiet =
        TimeRange::Between { from: at("2026-01-02T10:00:00Z"), to: at("2026-01-02T11:00:00Z") };
    let report = investigated(folder.path(), quiet, Vec::new()).await;
    let patterns = report["patterns"].as_array().unwrap();
    assert_eq!(patterns.len(), 1);
    assert_eq!(patterns[0]["count"], 50);
    assert!(causes(&report).is_empty(), "{:?}", causes(&report));
    // The metrics are current and the range is over, so they rule out nothing.
    assert!(!report["ruled_out"].to_string().contains("too little memory"));
    assert!(report["gaps"].to_string().contains("the machine's metrics"));
}

#[tokio::test]
async fn a_deployment_after_the_first_error_is_ruled_out() {
    let folder = tempfile::tempdir().unwrap();
    write_logs(folder.path());
    for (ended, suspect) in [
        ("2026-01-02T11:50:00Z", false),
        ("2026-01-02T10:40:00Z", false),
        ("2026-01-02T11:00:00Z", true),
    ] {
        let deploy = task("d-1", TaskType::Deploy, ended, None);
        let report = investigated(folder.path(), HOUR, vec![deploy]).await;
        let named = causes(&report).iter().any(|(cause, _)| cause.contains("the deployment"));
        assert_eq!(named, suspect, "{ended}");
        assert_eq!(report["ruled_out"].to_string().contains("a recent deployment"), !suspect);
    }
}

#[tokio::test]
async fn without_logs_the_report_says_what_to_set() {
    let (from, to) = HOUR.resolve(now());
    let mut facts = Observations::new(&asked(HOUR), from, to, now());
    facts.tasks = Some(Vec::new());
    let report = report(&facts);
    assert_eq!(report["success"], true);
    assert!(report["recommendations"].to_string().contains("LOG_DIRS"));
    assert!(!report["ruled_out"].to_string().contains("memory"));
}
