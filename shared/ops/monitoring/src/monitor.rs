//! The tool `monitor`: measures the machine, probes services and judges the results. A run that
//! finds an unhealthy service still succeeds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use serde_json::{Map, Value, json};

use async_trait::async_trait;
use watchbill_domain::{Fields, Refusal, TaskType};
use watchbill_governance::{Operation, OperationRule, ToolClass, ToolSpec};
use watchbill_redact as redact;
use watchbill_runtime::evidence::{Health, Issue, SystemReport};
use watchbill_runtime::ooda::Observation;
use watchbill_runtime::probe::{Probe, ProbeFailureKind, ProbeOutcome, Probes};
use watchbill_runtime::run::{Run, RunOutcome};
use watchbill_runtime::tool::{Arguments, Tool, TypedTool, normalize, tool};

use super::health::Thresholds;
use super::system::SystemSample;

static SPEC: ToolSpec = ToolSpec {
    name: "monitor",
    description: "Measures the machine and probes services over HTTP, HTTPS and TCP.",
    class: ToolClass::Safe,
    operation: OperationRule::Always(Operation::MonitorSystem),
    gate_type: TaskType::Monitor,
    schema: || {
        let target = json!({ "type": "object", "required": ["url"], "properties": {
            "name": { "type": "string", "maxLength": 200 },
            "url": { "type": "string", "description": "http://…, https://… or tcp://host:port" },
            "expected_status": { "type": "array", "items": { "type": "integer" } },
            "body_contains": { "type": "string", "maxLength": 1000 },
            "timeout": { "type": "number", "description": "seconds" },
        }});
        json!({ "type": "object", "properties": {
            "service": { "type": "string", "maxLength": 200, "default": "system" },
            "services": { "type": "array", "maxItems": MAX_SERVICES, "items": target },
        }})
    },
    normalize: normalize::<MonitorParameters>,
};

/// Without probes, services are reported as not probed.
pub fn monitor(probes: Option<Arc<dyn Probes>>) -> Arc<dyn Tool> {
    tool(&SPEC, Monitor { probes })
}

struct Monitor {
    probes: Option<Arc<dyn Probes>>,
}

#[async_trait]
impl TypedTool<MonitorParameters> for Monitor {
    async fn run(&self, run: &Run, seen: &Observation, asked: &MonitorParameters) -> RunOutcome {
        let measured = Measured { system: seen.system.as_ref().map_err(String::as_str) };
        measure(asked, run, measured, self.probes.as_deref(), &Thresholds::DEFAULT).await
    }
}

/// Maximum number of services of one task.
const MAX_SERVICES: usize = 50;
/// Maximum number of concurrent probes.
const MAX_CONCURRENT_PROBES: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub name: String,
    pub url: String,
    /// Empty: any status below 400.
    pub expected_status: Vec<u16>,
    pub body_contains: Option<String>,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MonitorParameters {
    /// `system` is the machine itself.
    pub service: String,
    pub targets: Vec<Target>,
    pub suggested_rules: Option<Value>,
}

impl Arguments for MonitorParameters {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let service = fields.bounded("service", 200)?.unwrap_or_else(|| "system".to_owned());
        let mut targets = Vec::new();
        if fields.get("url").is_some() {
            let name = (service != "system").then_some(service.as_str());
            targets.push(Target::parse(fields, "url", fields.get("url"), name)?);
        }
        match fields.get("urls") {
            Some(Value::Array(urls)) => {
                let name = (service != "system" && urls.len() == 1).then_some(service.as_str());
                for url in urls {
                    targets.push(Target::parse(fields, "urls", Some(url), name)?);
                }
            }
            Some(one @ Value::String(_)) => {
                targets.push(Target::parse(fields, "urls", Some(one), None)?);
            }
            Some(other) => return Err(Refusal::wrong(&fields.at("urls"), other, "a list of URLs")),
            None => {}
        }
        match fields.get("services") {
            Some(Value::Array(items)) => {
                for (n, item) in items.iter().enumerate() {
                    let path = format!("{}[{n}]", fields.at("services"));
                    let Value::Object(map) = item else {
                        return Err(Refusal::wrong(&path, item, "an object with name and url"));
                    };
                    let inner = Fields { map, path: &path };
                    let name = inner.bounded("name", 200)?;
                    targets.push(Target::parse(inner, "url", inner.get("url"), name.as_deref())?);
                }
            }
            Some(other) => {
                let needed = "a list of objects with name and url";
                return Err(Refusal::wrong(&fields.at("services"), other, needed));
            }
            None => {}
        }
        if targets.len() > MAX_SERVICES {
            return Err(Refusal::new(format!(
                "{} services are requested; the maximum of a task is {MAX_SERVICES}",
                targets.len()
            )));
        }
        let suggested_rules = fields.get("suggested_rules").cloned();
        Ok(Self { service, targets, suggested_rules })
    }

    fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("service".to_owned(), self.service.as_str().into());
        if !self.targets.is_empty() {
            let targets = self.targets.iter().map(Target::to_value).collect();
            map.insert("services".to_owned(), targets);
        }
        if let Some(rules) = &self.suggested_rules {
            map.insert("suggested_rules".to_owned(), rules.clone());
        }
        map
    }
}

impl Target {
    fn parse(
        fields: Fields<'_>,
        field: &str,
        url: Option<&Value>,
        name: Option<&str>,
    ) -> Result<Self, Refusal> {
        let path = fields.at(field);
        let needed = "a URL such as https://example.com/health or tcp://db.example.com:5432";
        let url = url.ok_or_else(|| Refusal::missing(&path, needed))?;
        let text = url.as_str().map(str::trim).filter(|text| is_probe_url(text));
        let text = text.ok_or_else(|| Refusal::wrong(&path, url, needed))?;
        let timeout = fields.span("timeout")?.unwrap_or(TIMEOUT);
        Ok(Self {
            name: name.map_or_else(|| host_of(text).to_owned(), str::to_owned),
            url: text.to_owned(),
            expected_status: expected_status(fields)?,
            body_contains: fields.bounded("body_contains", 1_000)?,
            timeout: timeout.clamp(Duration::from_millis(50), MAX_TIMEOUT),
        })
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".to_owned(), self.name.as_str().into());
        map.insert("url".to_owned(), self.url.as_str().into());
        if !self.expected_status.is_empty() {
            map.insert("expected_status".to_owned(), json!(self.expected_status));
        }
        if let Some(text) = &self.body_contains {
            map.insert("body_contains".to_owned(), text.as_str().into());
        }
        map.insert("timeout".to_owned(), json!(self.timeout.as_secs_f64()));
        Value::Object(map)
    }

    fn expects_redirect(&self) -> bool {
        self.expected_status.iter().any(|status| (300..400).contains(status))
    }
}

fn expected_status(fields: Fields<'_>) -> Result<Vec<u16>, Refusal> {
    let one = |value: &Value| {
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64(),
        };
        number.filter(|n| (100..600).contains(n)).map(|n| n as u16).ok_or_else(|| {
            Refusal::wrong(&fields.at("expected_status"), value, "an HTTP status such as 200")
        })
    };
    match fields.get("expected_status") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn is_probe_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match scheme {
        "http" | "https" => !host.is_empty() && !url.contains(char::is_whitespace),
        "tcp" => has_port && !host.starts_with(':'),
        _ => false,
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

/// What was measured beforehand; the machine's metrics come from the observation.
struct Measured<'a> {
    system: Result<&'a SystemReport, &'a str>,
}

async fn measure(
    asked: &MonitorParameters,
    run: &Run,
    measured: Measured<'_>,
    probes: Option<&dyn Probes>,
    limits: &Thresholds,
) -> RunOutcome {
    if let (Err(reason), true) = (measured.system, asked.targets.is_empty()) {
        return RunOutcome::retryable(format!("nothing could be measured: {reason}"));
    }
    let Some(probes) = probes.filter(|_| !asked.targets.is_empty()) else {
        return report(asked, measured, Vec::new(), limits);
    };
    let mut running = Vec::with_capacity(asked.targets.len());
    for target in &asked.targets {
        running.push(probe_one(target, run, probes).boxed());
    }
    let outcomes = stream::iter(running).buffered(MAX_CONCURRENT_PROBES).collect::<Vec<_>>().await;
    report(asked, measured, outcomes, limits)
}

async fn probe_one<'a>(
    target: &'a Target,
    run: &Run,
    probes: &dyn Probes,
) -> (&'a Target, Option<ProbeOutcome>) {
    let probe = Probe {
        url: target.url.clone(),
        timeout: target.timeout.min(run.time_left()),
        body_contains: target.body_contains.clone(),
        follow_redirects: !target.expects_redirect(),
    };
    // The probe has its own timeout. This one covers a probe that never returns.
    let at_most = target.timeout + Duration::from_secs(2);
    (target, run.within(at_most, probes.probe(&probe)).await)
}

type Outcomes<'a> = Vec<(&'a Target, Option<ProbeOutcome>)>;

fn report(
    asked: &MonitorParameters,
    measured: Measured<'_>,
    outcomes: Outcomes<'_>,
    limits: &Thresholds,
) -> RunOutcome {
    let mut issues = Vec::new();
    let mut services = Vec::new();
    match measured.system {
        Ok(system) => issues.extend_from_slice(&system.issues),
        Err(reason) => {
            let text = format!("the machine's own metrics are missing: {reason}");
            issues.push(Issue { health: Health::Degraded, text });
        }
    }
    for (target, outcome) in &outcomes {
        services.push(assess_service(target, outcome.as_ref(), limits, &mut issues));
    }
    for target in asked.targets.iter().skip(outcomes.len()) {
        services.push(not_probed(&target.name, "probes are not available in this build"));
    }
    if asked.targets.is_empty() && asked.service != "system" {
        services.push(not_probed(
            &asked.service,
            "no address was given, so only the machine was measured: set payload.url",
        ));
    }
    let worst = issues.iter().map(|issue| issue.health).max().unwrap_or(Health::Healthy);
    let texts: Vec<&str> = issues.iter().map(|issue| issue.text.as_str()).collect();
    let mut result = Map::new();
    result.insert("success".to_owned(), true.into());
    result.insert(
        "metrics".to_owned(),
        measured.system.map_or(Value::Null, |system| system.metrics.clone()),
    );
    result.insert("services".to_owned(), Value::Array(services));
    result.insert("health".to_owned(), json!({"status": worst.as_str(), "issues": texts}));
    if let Some(rules) = &asked.suggested_rules {
        result.insert("suggested_rules".to_owned(), rules.clone());
    }
    RunOutcome::Done { result, events: Vec::new() }
}

fn not_probed(name: &str, why: &str) -> Value {
    json!({"name": name, "status": "not_probed", "error": why})
}

/// Percentages 0–100, sizes in bytes, load averages over 1, 5 and 15 minutes.
pub fn metrics(sample: &SystemSample) -> Value {
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let disks: Vec<Value> = sample
        .disks
        .iter()
        .map(|disk| {
            json!({"mount": disk.mount, "percent": tenth(disk.percent()),
                "used_bytes": disk.used, "total_bytes": disk.total})
        })
        .collect();
    let fullest = sample.fullest_disk();
    json!({
        "cpu": {"percent": tenth(sample.cpu_percent), "cores": sample.cores},
        "memory": {
            "percent": tenth(sample.memory_percent()),
            "used_bytes": sample.memory_used,
            "total_bytes": sample.memory_total,
            "swap_used_bytes": sample.swap_used,
            "swap_total_bytes": sample.swap_total,
        },
        "disk": {
            "percent": fullest.map(|disk| tenth(disk.percent())),
            "mount": fullest.map(|disk| disk.mount.as_str()),
            "disks": disks,
        },
        "load": {
            "one": sample.load[0], "five": sample.load[1], "fifteen": sample.load[2],
            "per_core": (sample.load_per_core() * 100.0).round() / 100.0,
            "processes": sample.processes, "uptime_seconds": sample.uptime.as_secs(),
        },
    })
}

fn assess_service(
    target: &Target,
    outcome: Option<&ProbeOutcome>,
    limits: &Thresholds,
    issues: &mut Vec<Issue>,
) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), target.name.as_str().into());
    out.insert("url".to_owned(), redact::text(&target.url).into());
    let found = match outcome {
        Some(outcome) => {
            add_measurements(outcome, &mut out);
            service_issues(target, outcome, limits)
        }
        None => {
            let text = format!("no response within {:?}", target.timeout);
            vec![Issue { health: Health::Unhealthy, text }]
        }
    };
    let forbidden = outcome
        .and_then(|outcome| outcome.failure.as_ref())
        .is_some_and(|failure| failure.kind == ProbeFailureKind::Forbidden);
    let worst = found.iter().map(|issue| issue.health).max().unwrap_or(Health::Healthy);
    let status = match worst {
        _ if forbidden => "refused",
        Health::Healthy => "up",
        Health::Degraded => "degraded",
        Health::Unhealthy => "down",
    };
    out.insert("status".to_owned(), status.into());
    let texts: Vec<&str> = found.iter().map(|issue| issue.text.as_str()).collect();
    if !texts.is_empty() {
        out.insert("error".to_owned(), texts.join("; ").into());
    }
    for issue in &found {
        let text = format!("{}: {}", target.name, issue.text);
        issues.push(Issue { health: issue.health, text });
    }
    Value::Object(out)
}

fn add_measurements(outcome: &ProbeOutcome, out: &mut Map<String, Value>) {
    out.insert("http_status".to_owned(), json!(outcome.http_status));
    let latency = outcome.latency.as_secs_f64() * 1_000.0;
    out.insert("latency_ms".to_owned(), json!((latency * 10.0).round() / 10.0));
    if let Some(days) = outcome.tls_days_left {
        out.insert("tls_days_left".to_owned(), days.into());
    }
    if let Some(matched) = outcome.body_matched {
        out.insert("body_matched".to_owned(), matched.into());
    }
    if outcome.redirects > 0 {
        out.insert("redirects".to_owned(), outcome.redirects.into());
    }
}

fn service_issues(target: &Target, outcome: &ProbeOutcome, limits: &Thresholds) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut add = |health, text: String| issues.push(Issue { health, text });
    if let Some(days) = outcome.tls_days_left {
        match limits.tls(days) {
            Health::Healthy => {}
            health if days < 0 => {
                add(health, format!("the certificate expired {} days ago", -days))
            }
            health => add(health, format!("the certificate expires in {days} days")),
        }
    }
    if let Some(failure) = &outcome.failure {
        // A probe that the policy forbids says nothing about the service.
        let forbidden = failure.kind == ProbeFailureKind::Forbidden;
        let health = if forbidden { Health::Degraded } else { Health::Unhealthy };
        add(health, failure.message.clone());
        return issues;
    }
    if let Some(status) = outcome.http_status {
        let expected = &target.expected_status;
        if expected.is_empty() && status >= 400 {
            add(Health::Unhealthy, format!("it returned {status}"));
        } else if !expected.is_empty() && !expected.contains(&status) {
            let wanted: Vec<String> = expected.iter().map(u16::to_string).collect();
            let wanted = wanted.join(" or ");
            add(Health::Unhealthy, format!("it returned {status}, {wanted} was expected"));
        }
    }
    if outcome.body_matched == Some(false) {
        let text = target.body_contains.as_deref().unwrap_or_default();
        add(
            Health::Unhealthy,
            format!("its body does not contain '{}'", redact::shortened(text, 80)),
        );
    }
    let latency = outcome.latency.as_secs_f64() * 1_000.0;
    let health = limits.latency_ms.assess(latency);
    if health > Health::Healthy {
        // A slow service is not down.
        let text = format!("it took {latency:.0} ms (limit {})", limits.latency_ms.degraded);
        add(Health::Degraded.min(health), text);
    }
    issues
}
