//! Turns facts into a report. Every cause states its confidence. A cause is ruled out only if
//! its evidence was checked.

use std::cmp::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{Status, TaskType, Timestamp};
use watchbill_redact as redact;
use watchbill_runtime::evidence::{AlertSummary, Health, Resource, SystemReport, TaskSummary};

use super::evidence::{Group, LogFacts, Trend};
use super::rules::{RULES, matching};
use super::{DEPLOY_WINDOW, InvestigateParameters};

/// A deployment that ended at most this long before the issue is a suspect.
const SUSPECT: Duration = Duration::from_secs(30 * 60);
const STRONG_SUSPECT: Duration = Duration::from_secs(10 * 60);
/// Current metrics say little about a range that ended longer ago than this.
const FRESH: Duration = Duration::from_secs(10 * 60);
const MAX_PATTERNS: usize = 20;
const MAX_CAUSES: usize = 10;
/// Maximum confidence: nothing derived from logs and metrics is certain.
const SUREST: f64 = 0.95;

pub struct Observations {
    pub issue: String,
    pub from: Timestamp,
    pub to: Timestamp,
    pub now: Timestamp,
    pub system: Option<SystemReport>,
    pub alerts: Vec<AlertSummary>,
    pub tasks: Option<Vec<TaskSummary>>,
    pub logs: Option<LogFacts>,
    /// What could not be checked.
    pub gaps: Vec<String>,
}

impl Observations {
    pub fn new(
        asked: &InvestigateParameters,
        from: Timestamp,
        to: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            issue: asked.issue.clone(),
            from,
            to,
            now,
            system: None,
            alerts: Vec::new(),
            tasks: None,
            logs: None,
            gaps: Vec::new(),
        }
    }

    fn metrics_are_current(&self) -> bool {
        self.now.since(self.to) <= FRESH
    }
}

#[derive(Debug)]
struct Cause {
    cause: String,
    confidence: f64,
    evidence: Vec<String>,
    recommendation: String,
}

#[derive(Default)]
struct ReportParts {
    findings: Vec<String>,
    causes: Vec<Cause>,
    ruled_out: Vec<(String, String)>,
    gaps: Vec<String>,
}

/// `{success, findings, causes, ruled_out, gaps, patterns, recommendations}`.
pub fn report(facts: &Observations) -> Map<String, Value> {
    let mut found = ReportParts { gaps: facts.gaps.clone(), ..ReportParts::default() };
    from_logs(facts, &mut found);
    from_deployments(facts, &mut found);
    from_monitors(facts, &mut found);
    from_metrics(facts, &mut found);
    from_alerts(facts, &mut found);
    found.causes.sort_by(|a, b| b.confidence.partial_cmp(&a.confidence).unwrap_or(Ordering::Equal));
    found.causes.truncate(MAX_CAUSES);
    let mut recommendations: Vec<String> = Vec::new();
    for cause in &found.causes {
        if !recommendations.contains(&cause.recommendation) {
            recommendations.push(cause.recommendation.clone());
        }
    }
    if found.causes.is_empty() {
        recommendations.push(without_cause(facts));
    }
    let causes: Vec<Value> = found.causes.iter().map(to_json).collect();
    let ruled_out: Vec<Value> =
        found.ruled_out.iter().map(|(cause, why)| json!({"cause": cause, "why": why})).collect();
    let groups = facts.logs.iter().flat_map(|logs| &logs.groups);
    let patterns: Vec<Value> = groups.take(MAX_PATTERNS).map(pattern).collect();
    let mut out = Map::new();
    out.insert("success".to_owned(), true.into());
    out.insert("findings".to_owned(), found.findings.into());
    out.insert("causes".to_owned(), causes.into());
    out.insert("ruled_out".to_owned(), ruled_out.into());
    out.insert("gaps".to_owned(), found.gaps.into());
    out.insert("patterns".to_owned(), patterns.into());
    out.insert("recommendations".to_owned(), recommendations.into());
    redact::object(&mut out);
    out
}

fn to_json(cause: &Cause) -> Value {
    json!({
        "cause": cause.cause,
        "confidence": (cause.confidence * 100.0).round() / 100.0,
        "evidence": cause.evidence,
    })
}

fn pattern(group: &Group) -> Value {
    json!({
        "template": group.template,
        "level": group.level.as_str(),
        "count": group.count,
        "count_before": group.before,
        "first_seen": group.first.map(|at| at.to_string()),
        "last_seen": group.last.map(|at| at.to_string()),
        "trend": group.trend().as_str(),
        "frame": group.frame,
        "files": group.files,
        "examples": group.examples,
    })
}

fn without_cause(facts: &Observations) -> String {
    match &facts.logs {
        None => "configure log folders (set LOG_DIRS), then investigate again".to_owned(),
        Some(logs) if logs.entries == 0 => {
            "widen time_range, or name the paths of the logs that matter".to_owned()
        }
        Some(logs) if logs.errors == 0 => {
            "no log entry is an error: widen time_range, or investigate a service that it calls"
                .to_owned()
        }
        Some(_) => "read the patterns: no rule matches any of them".to_owned(),
    }
}

fn from_logs(facts: &Observations, found: &mut ReportParts) {
    let Some(logs) = &facts.logs else { return };
    found.findings.push(format!(
        "{} log entries in {} files between {} and {}: {} errors, {} warnings; {} errors in the \
         period of the same length before",
        logs.entries,
        logs.files,
        facts.from,
        facts.to,
        logs.errors,
        logs.warnings,
        logs.errors_before
    ));
    if let Some(group) = logs.groups.first() {
        found.findings.push(format!(
            "the most frequent error ({} of {}, {}): {}",
            group.count,
            logs.errors,
            group.trend().as_str(),
            group.template
        ));
    }
    if let Some(onset) = logs.onset() {
        found.findings.push(format!("new errors began at {onset}"));
    }
    if logs.entries == 0 {
        found.gaps.push("logs: the files have no entries in the period investigated".to_owned());
        return;
    }
    let mut by_rule: Vec<Vec<(&Group, Option<String>)>> =
        RULES.iter().map(|_| Vec::new()).collect();
    for group in &logs.groups {
        if let Some((rule, what)) = matching(&group.sample) {
            by_rule[rule].push((group, what));
        }
    }
    for (rule, groups) in RULES.iter().zip(by_rule) {
        if groups.is_empty() {
            let why = format!("none of {} log entries in the range indicates it", logs.entries);
            found.ruled_out.push((rule.cause.to_owned(), why));
        } else {
            found.causes.push(cause_of(rule, &groups, logs, facts));
        }
    }
}

fn cause_of(
    rule: &super::CauseRule,
    groups: &[(&Group, Option<String>)],
    logs: &LogFacts,
    facts: &Observations,
) -> Cause {
    let count: u64 = groups.iter().map(|(group, _)| group.count).sum();
    let before: u64 = groups.iter().map(|(group, _)| group.before).sum();
    let first = groups.iter().filter_map(|(group, _)| group.first).min();
    let last = groups.iter().filter_map(|(group, _)| group.last).max();
    let share = count as f64 / logs.errors.max(1) as f64;
    let mut confidence = rule.weight * (0.35 + 0.45 * share);
    let mut evidence =
        vec![format!("{count} of {} errors in the range are of this kind", logs.errors)];
    if let (Some(first), Some(last)) = (first, last) {
        evidence.push(format!("first at {first}, last at {last}"));
    }
    match (first, before) {
        (None, _) => {}
        (_, 0) => {
            confidence += 0.1;
            evidence.push("none in the period of the same length before".to_owned());
        }
        (_, before) if count * 2 > before * 3 => {
            confidence += 0.05;
            evidence.push(format!("{before} in the period of the same length before"));
        }
        (_, before) => {
            confidence -= 0.2;
            evidence.push(format!("not new: {before} in the period of the same length before"));
        }
    }
    if count >= 10 {
        confidence += 0.05;
    }
    if let (Some(at), true) = (first, logs.errors > count)
        && logs.groups.iter().filter_map(|group| group.first).min() == Some(at)
    {
        confidence += 0.05;
        evidence.push("it came first: other errors followed it".to_owned());
    }
    if let Some(issue) = supporting_metric(rule, facts) {
        confidence += 0.1;
        evidence.push(issue);
    }
    for (group, _) in groups.iter().take(2) {
        if let Some(place) = &group.frame {
            evidence.push(format!("in the code at {place}"));
        }
        evidence.extend(group.examples.first().map(|line| format!("example: {line}")));
    }
    let mut names: Vec<&str> = groups.iter().filter_map(|(_, what)| what.as_deref()).collect();
    names.dedup();
    names.truncate(3);
    let frame = groups.iter().find_map(|(group, _)| group.frame.as_deref());
    let named = match (names.is_empty(), frame) {
        (false, _) => format!(": {}", names.join(", ")),
        (true, Some(place)) if rule.name == "fault in the code" => format!(": {place}"),
        (true, _) => String::new(),
    };
    Cause {
        cause: format!("{}{named}", rule.cause),
        confidence: confidence.clamp(0.05, SUREST),
        evidence,
        recommendation: rule.recommendation.to_owned(),
    }
}

/// The machine metric that supports a rule's cause, if it is bad now.
fn supporting_metric(rule: &super::CauseRule, facts: &Observations) -> Option<String> {
    let system = facts.system.as_ref().filter(|_| facts.metrics_are_current())?;
    let reading = system.reading(rule.resource?)?;
    let name = match reading.resource {
        Resource::Memory => "memory",
        Resource::Disk => "the fullest disk",
        Resource::Cpu => "cpu",
        Resource::Load => "load",
    };
    let value = reading.value;
    (reading.health > Health::Healthy).then(|| format!("{name} is at {value:.0} % now"))
}

fn from_deployments(facts: &Observations, found: &mut ReportParts) {
    let Some(tasks) = &facts.tasks else { return };
    let since = facts.from.minus(DEPLOY_WINDOW);
    let ended = |task: &&TaskSummary| {
        task.task_type == TaskType::Deploy
            && matches!(task.status, Status::Completed | Status::Failed)
            && task.finished_at.is_some_and(|at| at >= since && at <= facts.to)
    };
    let deploys: Vec<&TaskSummary> = tasks.iter().filter(ended).collect();
    if deploys.is_empty() {
        let why = format!("no deployment of this bundle ended between {since} and {}", facts.to);
        found.ruled_out.push(("a recent deployment".to_owned(), why));
        return;
    }
    for deploy in &deploys {
        let at = deploy.finished_at.unwrap_or(deploy.created_at);
        let status = deploy.status;
        found.findings.push(format!("deployment '{}' ended at {at} ({status})", deploy.title));
    }
    let Some(onset) = facts.logs.as_ref().and_then(LogFacts::onset) else {
        let why = match &facts.logs {
            Some(_) => "no error is new in the range",
            None => return,
        };
        found.ruled_out.push(("a recent deployment".to_owned(), why.to_owned()));
        return;
    };
    let suspects = deploys.iter().filter_map(|deploy| {
        let at = deploy.finished_at.filter(|at| *at <= onset)?;
        let gap = onset.since(at);
        (gap <= SUSPECT).then_some((*deploy, at, gap))
    });
    match suspects.min_by_key(|(_, _, gap)| *gap) {
        Some((deploy, at, gap)) => found.causes.push(deploy_cause(deploy, at, onset, gap, facts)),
        None => found.ruled_out.push((
            "a recent deployment".to_owned(),
            format!("none ended within 30 minutes before the first new error at {onset}"),
        )),
    }
}

fn deploy_cause(
    deploy: &TaskSummary,
    at: Timestamp,
    onset: Timestamp,
    gap: Duration,
    facts: &Observations,
) -> Cause {
    let groups = facts.logs.iter().flat_map(|logs| &logs.groups);
    let new: u64 = groups.filter(|g| g.trend() == Trend::New).map(|g| g.count).sum();
    let errors = facts.logs.as_ref().map_or(1, |logs| logs.errors.max(1));
    let share = new as f64 / errors as f64;
    let base = if gap <= STRONG_SUSPECT { 0.55 } else { 0.35 };
    let minutes = gap.as_secs().div_ceil(60);
    let mut evidence = vec![
        format!(
            "it ended at {at}, the first new error occurred at {onset}, {minutes} minutes later"
        ),
        format!("{new} of {errors} errors in the range did not occur before it"),
        format!("task {}", deploy.task_id),
    ];
    if let Some(error) = &deploy.error {
        evidence.push(format!("it failed: {}", redact::shortened(error, 200)));
    }
    Cause {
        cause: format!("the deployment '{}' caused it", deploy.title),
        confidence: (base + 0.25 * share).min(SUREST),
        evidence,
        recommendation: "compare with the previous version, and roll back if users are affected"
            .to_owned(),
    }
}

fn from_monitors(facts: &Observations, found: &mut ReportParts) {
    let tasks = facts.tasks.iter().flatten();
    let mut down: Vec<(String, Vec<String>)> = Vec::new();
    for task in tasks.filter(|task| task.task_type == TaskType::Monitor) {
        let when = task.finished_at.unwrap_or(task.created_at);
        if when < facts.from || when > facts.to {
            continue;
        }
        if task.status == Status::Failed {
            let error = redact::shortened(task.error.as_deref().unwrap_or("no reason given"), 200);
            found
                .findings
                .push(format!("the monitor task '{}' failed at {when}: {error}", task.title));
        }
        let services = task.result.as_ref().and_then(|result| result.get("services"));
        for service in services.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("status") != "down" {
                continue;
            }
            let line = format!("found down at {when} (task {}): {}", task.task_id, text("error"));
            match down.iter_mut().find(|(name, _)| name == text("name")) {
                Some((_, lines)) => lines.push(line),
                None => down.push((text("name").to_owned(), vec![line])),
            }
        }
    }
    for (name, mut evidence) in down {
        let times = evidence.len();
        evidence.truncate(3);
        found.causes.push(Cause {
            cause: format!("the service '{name}' is down"),
            confidence: if times > 1 { 0.6 } else { 0.5 },
            evidence,
            recommendation: format!(
                "check '{name}' first: services that depend on it fail with it"
            ),
        });
    }
}

fn from_metrics(facts: &Observations, found: &mut ReportParts) {
    let Some(system) = &facts.system else { return };
    if !facts.metrics_are_current() {
        let text = format!(
            "the machine's metrics: they are current, not from the time until {}",
            facts.to
        );
        found.gaps.push(text);
        return;
    }
    for issue in &system.issues {
        let strong = issue.health == Health::Unhealthy;
        found.findings.push(issue.text.clone());
        found.causes.push(Cause {
            cause: format!("the machine is short of a resource: {}", issue.text),
            confidence: if strong { 0.5 } else { 0.3 },
            evidence: vec![format!("measured at {}", system.at)],
            recommendation: "find the process or folder that uses it, or give the machine more"
                .to_owned(),
        });
    }
    for (name, resource, unit) in [
        ("too little cpu", Resource::Cpu, "%"),
        ("too little memory", Resource::Memory, "%"),
        ("a full disk now", Resource::Disk, "%"),
        ("too much load", Resource::Load, "per core"),
    ] {
        let Some(reading) = system.reading(resource) else { continue };
        if reading.health == Health::Healthy {
            let why = format!("{:.1} {unit} now, below {}", reading.value, reading.limit);
            found.ruled_out.push((name.to_owned(), why));
        }
    }
}

fn from_alerts(facts: &Observations, found: &mut ReportParts) {
    for alert in facts.alerts.iter().take(10) {
        found.findings.push(format!(
            "open {} alert {} on {} since {}, seen {} times: {}",
            alert.severity,
            alert.alert_type,
            alert.target,
            alert.first_seen,
            alert.count,
            redact::shortened(&alert.message, 160)
        ));
    }
    let word = |text: &str| facts.issue.to_lowercase().contains(&text.to_lowercase());
    for alert in facts.alerts.iter().filter(|a| word(&a.target) || word(&a.alert_type)).take(3) {
        found.findings.push(format!("alert {} is about the issue", alert.alert_id));
    }
}
