//! The tool `investigate`: reads logs, recent tasks, alerts and metrics around an issue and
//! reports likely causes with their evidence, what was ruled out, and what could not be
//! checked.
//!
//! - `evidence`: groups the errors of log files. `logs`: parses their lines. `frame`: finds the
//!   place in the code. `log_files`: the port that reads log files.
//! - `rules`: which log lines point to which causes. `report`: from facts to causes.
//!
//! How to add a cause: add a row to `rules::RULES`. All other input comes through the runtime's
//! `Evidence`.

mod evidence;
mod frame;
mod log_files;
mod logs;
mod report;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use watchbill_domain::{Fields, Refusal, TaskType, TimeRange, Timestamp};
use watchbill_governance::{Operation, OperationRule, ToolClass, ToolSpec};
use watchbill_runtime::evidence::{AlertSummaries, Evidence, ObservationError, SystemReport};
use watchbill_runtime::ooda::Observation;
use watchbill_runtime::run::{Run, RunOutcome};
use watchbill_runtime::tool::{Arguments, Tool, TypedTool, normalize, tool};

pub use evidence::{Group, LogFacts, Trend, read_logs};
pub use log_files::{LogFile, LogFiles, LogRequest, LogScan, SkippedLog};
pub use report::{Observations, report};
pub use rules::{CauseRule, RULES};

static SPEC: ToolSpec = ToolSpec {
    name: "investigate",
    description: "Reads logs, recent tasks, alerts and metrics around an issue and reports \
                  likely causes.",
    class: ToolClass::Safe,
    operation: OperationRule::Always(Operation::InvestigateIssues),
    gate_type: TaskType::Investigate,
    schema: || {
        json!({ "type": "object", "properties": {
            "issue": { "type": "string", "maxLength": 4000, "default": DEFAULT_SUBJECT },
            "time_range": {
                "type": "string",
                "description": "such as 1h, yesterday, or two RFC 3339 times separated by '/'",
            },
            "paths": { "type": "array", "maxItems": MAX_PATHS, "items": { "type": "string" } },
            "service": { "type": "string", "maxLength": 200 },
        }})
    },
    normalize: normalize::<InvestigateParameters>,
};

/// Without log files the report says so.
pub fn investigate(evidence: Arc<dyn Evidence>, logs: Option<Arc<dyn LogFiles>>) -> Arc<dyn Tool> {
    tool(&SPEC, Investigate { evidence, logs })
}

struct Investigate {
    evidence: Arc<dyn Evidence>,
    logs: Option<Arc<dyn LogFiles>>,
}

#[async_trait]
impl TypedTool<InvestigateParameters> for Investigate {
    async fn run(
        &self,
        run: &Run,
        seen: &Observation,
        asked: &InvestigateParameters,
    ) -> RunOutcome {
        let tenant = &run.task.tenant;
        let open = self.evidence.open_alerts(tenant, INVESTIGATED_ALERTS);
        let open = run.within(OBSERVE, open).await;
        let open = open.ok_or_else(|| "it took too long".to_owned());
        let open = open.and_then(|open| open.map_err(|error| error.to_string()));
        let observed = Observed {
            system: seen.system.as_ref().map_err(String::as_str),
            alerts: open.as_ref().map_err(String::as_str),
        };
        gather(asked, run, observed, self.logs.as_ref(), &*self.evidence).await
    }
}

/// Maximum number of open alerts that an investigation reads.
const INVESTIGATED_ALERTS: usize = 50;
/// Timeout of reading them.
const OBSERVE: Duration = Duration::from_secs(5);
/// How long before the range a deployment may have ended to be considered.
pub const DEPLOY_WINDOW: Duration = Duration::from_secs(2 * 3_600);
/// Maximum bytes read of one file (its end), and of all files.
const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_TOTAL_BYTES: u64 = 64 << 20;
const MAX_TASKS: usize = 100;
/// The default issue, the same as in the orchestrator's own worker.
const DEFAULT_SUBJECT: &str = "system issue";
const MAX_PATHS: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct InvestigateParameters {
    pub issue: String,
    pub range: Option<TimeRange>,
    pub paths: Vec<String>,
    pub service: Option<String>,
}

impl Arguments for InvestigateParameters {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let issue = fields.bounded("issue", 4_000)?.unwrap_or_else(|| DEFAULT_SUBJECT.to_owned());
        let mut paths = fields.texts("path")?;
        paths.extend(fields.texts("paths")?);
        if paths.len() > MAX_PATHS {
            return Err(Refusal::new(format!(
                "{} has {} entries; the maximum is {MAX_PATHS}",
                fields.at("paths"),
                paths.len()
            )));
        }
        Ok(Self {
            issue,
            range: TimeRange::of_field(fields, "time_range")?,
            paths,
            service: fields.bounded("service", 200)?,
        })
    }

    fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("issue".to_owned(), self.issue.as_str().into());
        if let Some(range) = self.range {
            map.insert("time_range".to_owned(), range.to_string().into());
        }
        if !self.paths.is_empty() {
            map.insert("paths".to_owned(), json!(self.paths));
        }
        if let Some(service) = &self.service {
            map.insert("service".to_owned(), service.as_str().into());
        }
        map
    }
}

/// What the loop has already observed.
struct Observed<'a> {
    system: Result<&'a SystemReport, &'a str>,
    alerts: Result<&'a AlertSummaries, &'a str>,
}

async fn gather(
    asked: &InvestigateParameters,
    run: &Run,
    observed: Observed<'_>,
    logs: Option<&Arc<dyn LogFiles>>,
    evidence: &dyn Evidence,
) -> RunOutcome {
    let now = run.clock.now();
    let (from, to) = asked.range.unwrap_or(TimeRange::DEFAULT).resolve(now);
    let mut facts = Observations::new(asked, from, to, now);
    match observed.system {
        Ok(system) => facts.system = Some(system.clone()),
        Err(reason) => facts.gaps.push(format!("the machine's metrics: {reason}")),
    }
    match observed.alerts {
        Ok(open) => {
            facts.alerts.clone_from(&open.newest);
            if open.open.count > open.newest.len() || open.open.more {
                let (read, all) = (open.newest.len(), open.open);
                facts.gaps.push(format!("open alerts: only the {read} newest of {all} were read"));
            }
        }
        Err(reason) => facts.gaps.push(format!("open alerts: {reason}")),
    }
    gather_tasks(run, evidence, &mut facts).await;
    gather_logs(asked, run, logs, &mut facts).await;
    RunOutcome::Done { result: report(&facts), events: Vec::new() }
}

async fn gather_tasks(run: &Run, evidence: &dyn Evidence, facts: &mut Observations) {
    let tenant = &run.task.tenant;
    let since = facts.from.minus(DEPLOY_WINDOW);
    let asked = evidence.recent_tasks(tenant, since, facts.to, MAX_TASKS);
    match run.within(Duration::from_secs(10), asked).await {
        Some(Ok(tasks)) => {
            let others = tasks.into_iter().filter(|task| task.task_id != run.task.id);
            facts.tasks = Some(others.collect());
        }
        Some(Err(ObservationError::NotHere)) => {
            facts.gaps.push("recent tasks: their history is not available here".to_owned());
        }
        Some(Err(error)) => facts.gaps.push(format!("recent tasks: {error}")),
        None => facts.gaps.push("recent tasks: they could not be read in time".to_owned()),
    }
}

async fn gather_logs(
    asked: &InvestigateParameters,
    run: &Run,
    logs: Option<&Arc<dyn LogFiles>>,
    facts: &mut Observations,
) {
    let Some(logs) = logs else {
        facts.gaps.push(
            "logs: no log folder is configured; set LOG_DIRS to the folders that may be read"
                .to_owned(),
        );
        return;
    };
    let request = LogRequest {
        paths: asked.paths.clone(),
        since: before(facts.from, facts.to),
        bytes_per_file: MAX_FILE_BYTES,
        bytes_in_all: MAX_TOTAL_BYTES,
    };
    // Half of the remaining time: the rest is needed for the analysis.
    let scan = match run.within(run.time_left() / 2, logs.read(request)).await {
        Some(Ok(scan)) => scan,
        Some(Err(error)) => {
            facts.gaps.push(format!("logs: {error}"));
            return;
        }
        None => {
            facts.gaps.push("logs: they could not be read in time; name fewer paths".to_owned());
            return;
        }
    };
    add_gaps(&scan, facts);
    let (from, to, now) = (facts.from, facts.to, facts.now);
    let service = asked.service.clone();
    // Parsing megabytes must not block other work on this thread.
    let work = tokio::task::spawn_blocking(move || read_logs(&scan, from, to, now, service));
    match work.await {
        Ok(found) => {
            facts.gaps.extend(found.gaps.iter().cloned());
            facts.logs = Some(found);
        }
        Err(error) => facts.gaps.push(format!("logs: reading them failed ({error})")),
    }
}

/// Start of the comparison period: the period of the same length before the range.
fn before(from: Timestamp, to: Timestamp) -> Timestamp {
    from.minus(to.since(from))
}

/// Maximum number of skipped files that are named individually.
const NAMED: usize = 10;

fn add_gaps(scan: &LogScan, facts: &mut Observations) {
    for skipped in scan.skipped.iter().take(NAMED) {
        facts.gaps.push(format!("{}: not read, {}", skipped.path, skipped.reason));
    }
    if scan.skipped.len() > NAMED {
        facts.gaps.push(format!("{} more files were not read", scan.skipped.len() - NAMED));
    }
    if scan.older > 0 {
        facts.gaps.push(format!(
            "{} log files were skipped: they were last written before the period investigated",
            scan.older
        ));
    }
    if scan.files.is_empty() && scan.skipped.is_empty() && scan.older == 0 {
        facts.gaps.push("logs: the configured folders contain no log files".to_owned());
    }
}
