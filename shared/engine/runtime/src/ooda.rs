//! The loop: observe, orient, decide, act. Each is a small function with a recorded note.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::decide::Authorization;
use watchbill_domain::Refusal;
use watchbill_governance::Plan;
use watchbill_redact as redact;

use crate::evidence::{AlertSummaries, CappedCount, Evidence, ObservationError, SystemReport};
use crate::run::{Run, RunOutcome};
use crate::tool::Tools;

/// Turns a situation into a plan: the playbook, or a model under the same checks.
#[async_trait]
pub trait Decider: Send + Sync {
    /// `Err` is for the person who created the task: it can't be done as it is.
    async fn decide(&self, situation: &Situation<'_>) -> Result<Plan, Refusal>;

    /// The kind of work, as text for the timeline.
    fn kind(&self, run: &Run) -> String {
        run.task.task_type.to_string()
    }
}

/// The input of a decision.
pub struct Situation<'a> {
    pub run: &'a Run,
    pub observation: &'a Observation,
    pub orientation: &'a Orientation,
}

/// The observations; `Err` says why one could not be made.
pub struct Observation {
    pub system: Result<SystemReport, String>,
    /// The newest open alerts, and how many there are.
    pub alerts: Result<AlertSummaries, String>,
    /// Tasks created in the past hour that have failed.
    pub errors: Result<CappedCount, String>,
}

/// The interpretation of the observations.
pub struct Orientation {
    /// The kind of work.
    pub kind: String,
    /// Problems of the machine.
    pub issues: Vec<String>,
    /// Number of active ones among the newest alerts that were read.
    pub active_alerts: usize,
}

pub struct Ooda {
    evidence: Arc<dyn Evidence>,
    tools: Tools,
    decider: Arc<dyn Decider>,
}

/// Timeout of each observation.
const OBSERVE: Duration = Duration::from_secs(5);
const RECENT: Duration = Duration::from_secs(3_600);
/// Open alerts that are read for every run. The note names none of them, and each is an item.
const OBSERVED_ALERTS: usize = 10;

impl Ooda {
    pub fn new(evidence: Arc<dyn Evidence>, tools: Tools, decider: Arc<dyn Decider>) -> Self {
        Self { evidence, tools, decider }
    }

    pub async fn run(&self, run: &Run) -> RunOutcome {
        let notes = &run.notes;
        let observation = notes.record("observe", || async { self.observe(run).await }).await;
        let orientation = notes.record("orient", || async { self.orient(run, &observation) }).await;
        let situation = Situation { run, observation: &observation, orientation: &orientation };
        let plan = notes.record("decide", || async { self.decide(&situation).await }).await;
        let ended = match plan {
            Ok(plan) => {
                notes.record("act", || async { self.act(run, &observation, &plan).await }).await
            }
            Err(refusal) => RunOutcome::terminal(refusal.message),
        };
        clean(ended)
    }

    async fn observe(&self, run: &Run) -> (Observation, String) {
        let (evidence, tenant) = (&self.evidence, &run.task.tenant);
        let recently = run.clock.now().minus(RECENT);
        let (system, alerts, errors) = tokio::join!(
            seen(run, evidence.system()),
            seen(run, evidence.open_alerts(tenant, OBSERVED_ALERTS)),
            seen(run, evidence.failed_since(tenant, recently)),
        );
        let describe = |what: &str, found: Result<String, &String>| match found {
            Ok(n) => format!("{n} {what}"),
            Err(reason) => format!("{what} unavailable: {reason}"),
        };
        let text = format!(
            "{}; {}; {}",
            system
                .as_ref()
                .map_or_else(|e| format!("metrics unavailable: {e}"), |seen| seen.summary.clone()),
            describe("open alerts", alerts.as_ref().map(|seen| seen.open.to_string())),
            describe("failed tasks in the past hour", errors.as_ref().map(CappedCount::to_string)),
        );
        (Observation { system, alerts, errors }, text)
    }

    fn orient(&self, run: &Run, observation: &Observation) -> (Orientation, String) {
        let issues = observation.system.iter().flat_map(|seen| &seen.issues);
        let issues: Vec<String> = issues.map(|issue| issue.text.clone()).collect();
        let newest = observation.alerts.iter().flat_map(|seen| &seen.newest);
        let active_alerts = newest.filter(|alert| !alert.acknowledged).count();
        let kind = self.decider.kind(run);
        let system = match (&observation.system, issues.is_empty()) {
            (Err(_), _) => "the machine's health is unknown".to_owned(),
            (Ok(_), true) => "the machine is healthy".to_owned(),
            (Ok(_), false) => issues.join(", "),
        };
        let matters = if active_alerts == 0 {
            String::new()
        } else {
            let seen = observation.alerts.iter().map(|seen| seen.newest.len()).sum::<usize>();
            let of = observation.alerts.iter().any(|alerts| alerts.open.count > seen);
            let among = if of { format!(" among the {seen} newest") } else { String::new() };
            format!("; {active_alerts} unacknowledged alerts{among}")
        };
        let text = format!("{kind}; {system}{matters}");
        (Orientation { kind, issues, active_alerts }, text)
    }

    async fn decide(&self, situation: &Situation<'_>) -> (Result<Plan, Refusal>, String) {
        let plan = self.decider.decide(situation).await;
        let text = match &plan {
            Ok(plan) => {
                let mut parameters = Value::Object(plan.call.arguments.clone());
                redact::value(&mut parameters);
                format!("{}, because {}: {parameters}", plan.call.tool, plan.reason)
            }
            Err(refusal) => format!("no plan: {refusal}"),
        };
        (plan, text)
    }

    async fn act(&self, run: &Run, seen: &Observation, plan: &Plan) -> (RunOutcome, String) {
        let ended = match self.tools.get(&plan.call.tool) {
            Some(tool) => tool.run(run, seen, &plan.call.arguments).await,
            None => Err(Refusal::new(format!("there is no tool '{}'", plan.call.tool))),
        };
        let ended = ended.unwrap_or_else(|refusal| RunOutcome::terminal(refusal.message));
        let text = summarize(&ended);
        (ended, text)
    }
}

/// An observation made within its timeout, or why there is none.
async fn seen<T>(
    run: &Run,
    looked: impl Future<Output = Result<T, ObservationError>>,
) -> Result<T, String> {
    let found = run.within(OBSERVE, looked).await.ok_or("it timed out")?;
    found.map_err(|error| error.to_string())
}

fn summarize(ended: &RunOutcome) -> String {
    let count = |result: &Map<String, Value>, name: &str| {
        result.get(name).and_then(Value::as_array).map(Vec::len)
    };
    match ended {
        RunOutcome::Done { result, .. } => {
            let mut parts = Vec::new();
            if let Some(health) = result.get("health") {
                let status = health.get("status").and_then(Value::as_str).unwrap_or_default();
                let issues = health.get("issues").and_then(Value::as_array).map_or(0, Vec::len);
                parts.push(format!("{status}, {issues} issues"));
            }
            for name in ["services", "alerts", "actions", "causes", "patterns", "gaps"] {
                parts.extend(count(result, name).map(|n| format!("{n} {name}")));
            }
            let cause = result.get("causes").and_then(|causes| causes.get(0));
            if let Some(cause) = cause.and_then(|c| c.get("cause")).and_then(Value::as_str) {
                parts.push(format!("most likely {cause}"));
            }
            format!("done: {}", parts.join(", "))
        }
        RunOutcome::Failed { error, .. } => format!("failed: {error}"),
        RunOutcome::Blocked { reason, .. } => format!("blocked: {reason}"),
        RunOutcome::Suspended { resume_at, note } => format!("waits until {resume_at}: {note}"),
        RunOutcome::NotAuthorized(not_authorized) => match &not_authorized.authorization {
            Authorization::ApprovalRequired(asked) => format!("needs approval: {}", asked.reason),
            Authorization::Denied { error, .. } => format!("denied: {error}"),
            Authorization::Deferred { until, why } => format!("waits until {until}: {why}"),
            Authorization::Granted { .. } => "authorized".to_owned(),
        },
    }
}

/// Removes secrets from results, errors and events.
fn clean(mut ended: RunOutcome) -> RunOutcome {
    match &mut ended {
        RunOutcome::Done { result, events } => {
            redact::object(result);
            events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        }
        RunOutcome::Failed { error, events, .. } => {
            *error = redact::shortened(error, 4_000);
            events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        }
        RunOutcome::Blocked { reason, .. } => *reason = redact::shortened(reason, 4_000),
        RunOutcome::Suspended { note, .. } => *note = redact::shortened(note, 500),
        // Governance words these texts and removes secrets itself.
        RunOutcome::NotAuthorized(_) => {}
    }
    ended
}
