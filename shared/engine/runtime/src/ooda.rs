//! The loop: observe, orient, decide, act. Each is a small function with a recorded note.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::decide::Leave;
use watchbill_domain::{TaskType, Timestamp};

use crate::playbook::{Action, Class, Classification, Plan, Refusal, classify};
use crate::ports::{AlertBook, AlertStatus, Counted, History, LogFiles, OpenAlerts, Probes};
use crate::ports::{SystemMetrics, SystemSample};
use crate::run::{Run, RunEnd};
use crate::tools::alert::{self, AlertParameters};
use crate::tools::deploy::{self, DeployParameters};
use crate::tools::fields::Fields;
use crate::tools::investigate::{self, InvestigateParameters};
use crate::tools::judge::{Thresholds, in_words, system_issues};
use crate::tools::monitor::{self, MonitorParameters};
use watchbill_redact as redact;

/// What the loop works with. What is absent is said in results, never passed over.
#[derive(Clone, Default)]
pub struct OpsPorts {
    pub metrics: Option<Arc<dyn SystemMetrics>>,
    pub probes: Option<Arc<dyn Probes>>,
    pub logs: Option<Arc<dyn LogFiles>>,
    pub history: Option<Arc<dyn History>>,
    pub alerts: Option<Arc<dyn AlertBook>>,
}

/// Turns a situation into a plan: the playbook, or a model under the same guards.
#[async_trait]
pub trait Decider: Send + Sync {
    /// `Err` is for the person who made the task: it can't be done as it is.
    async fn decide(&self, situation: &Situation<'_>) -> Result<Plan, Refusal>;
}

/// What is known when it is decided.
pub struct Situation<'a> {
    pub run: &'a Run,
    pub observation: &'a Observation,
    pub orientation: &'a Orientation,
}

/// What was seen; `Err` says why something was not.
pub struct Observation {
    pub sample: Result<SystemSample, String>,
    /// The newest of them, and how many there are.
    pub alerts: Result<OpenAlerts, String>,
    /// Tasks that were made in the past hour and have failed.
    pub errors: Result<Counted, String>,
}

/// What it means.
pub struct Orientation {
    pub class: Option<Classification>,
    /// What is wrong with the machine.
    pub issues: Vec<String>,
    /// Of those that were looked at, the newest.
    pub active_alerts: usize,
}

pub struct Ooda {
    ports: OpsPorts,
    decider: Arc<dyn Decider>,
    thresholds: Thresholds,
}

/// For each thing that is observed before deciding.
const OBSERVE: Duration = Duration::from_secs(5);
const RECENT: Duration = Duration::from_secs(3_600);
/// Open alerts that are read for every run: its note names none of them, and each is an item.
const OBSERVED_ALERTS: usize = 10;
/// Open alerts that an investigation looks at.
const INVESTIGATED_ALERTS: usize = 50;

impl Ooda {
    pub fn new(ports: OpsPorts, decider: Arc<dyn Decider>) -> Self {
        Self { ports, decider, thresholds: Thresholds::DEFAULT }
    }

    pub async fn run(&self, run: &Run) -> RunEnd {
        let notes = &run.notes;
        let observation = notes.record("observe", || async { self.observe(run).await }).await;
        let orientation = notes.record("orient", || async { self.orient(run, &observation) }).await;
        let situation = Situation { run, observation: &observation, orientation: &orientation };
        let plan = notes.record("decide", || async { self.decide(&situation).await }).await;
        let ended = match plan {
            Ok(plan) => {
                notes.record("act", || async { self.act(run, &observation, &plan).await }).await
            }
            Err(refusal) => RunEnd::terminal(refusal.message),
        };
        clean(ended)
    }

    async fn observe(&self, run: &Run) -> (Observation, String) {
        let now = run.clock.now();
        let (sample, alerts, errors) = tokio::join!(
            self.sample(run),
            self.open_alerts(run, OBSERVED_ALERTS),
            self.recent_errors(run, now)
        );
        let said = |what: &str, found: Result<String, &String>| match found {
            Ok(n) => format!("{n} {what}"),
            Err(reason) => format!("{what} not seen: {reason}"),
        };
        let text = format!(
            "{}; {}; {}",
            sample.as_ref().map_or_else(|e| format!("figures not seen: {e}"), in_words),
            said("open alerts", alerts.as_ref().map(OpenAlerts::counted)),
            said("failed tasks in the past hour", errors.as_ref().map(Counted::to_string)),
        );
        (Observation { sample, alerts, errors }, text)
    }

    async fn sample(&self, run: &Run) -> Result<SystemSample, String> {
        let metrics = self.ports.metrics.as_ref().ok_or("not available here")?;
        let sample = run.within(OBSERVE, metrics.sample()).await.ok_or("it took too long")?;
        sample.map_err(|error| error.to_string())
    }

    async fn open_alerts(&self, run: &Run, limit: usize) -> Result<OpenAlerts, String> {
        let book = self.ports.alerts.as_ref().ok_or("not available here")?;
        let open = run.within(OBSERVE, book.list_open(&run.task.tenant, limit)).await;
        open.ok_or("it took too long")?.map_err(|error| error.to_string())
    }

    async fn recent_errors(&self, run: &Run, now: Timestamp) -> Result<Counted, String> {
        let history = self.ports.history.as_ref().ok_or("not available here")?;
        let asked = history.failed_since(&run.task.tenant, now.minus(RECENT));
        let failed = run.within(OBSERVE, asked).await.ok_or("it took too long")?;
        failed.map_err(|error| error.to_string())
    }

    fn orient(&self, run: &Run, observation: &Observation) -> (Orientation, String) {
        let description = run.payload.get("description").and_then(Value::as_str);
        let class = description.and_then(classify);
        let issues: Vec<String> = observation
            .sample
            .as_ref()
            .map(|sample| system_issues(sample, &self.thresholds))
            .unwrap_or_default()
            .into_iter()
            .map(|issue| issue.text)
            .collect();
        let newest = observation.alerts.iter().flat_map(|open| &open.newest);
        let active_alerts = newest.filter(|alert| alert.status == AlertStatus::Active).count();
        let what = match &class {
            Some(found) => format!("{} ({})", found.class.as_str(), found.because),
            None => Class::of_type(run.task.task_type)
                .map_or_else(|| run.task.task_type.to_string(), |class| class.as_str().to_owned()),
        };
        let system = match (&observation.sample, issues.is_empty()) {
            (Err(_), _) => "the machine's health is not known".to_owned(),
            (Ok(_), true) => "the machine is healthy".to_owned(),
            (Ok(_), false) => issues.join(", "),
        };
        let matters = if active_alerts == 0 {
            String::new()
        } else {
            let seen = observation.alerts.iter().map(|open| open.newest.len()).sum::<usize>();
            let of = observation.alerts.iter().any(|open| open.count > seen);
            let of = if of { format!(" of the {seen} newest") } else { String::new() };
            format!("; {active_alerts} alerts{of} nobody has acknowledged")
        };
        let text = format!("{what}; {system}{matters}");
        (Orientation { class, issues, active_alerts }, text)
    }

    async fn decide(&self, situation: &Situation<'_>) -> (Result<Plan, Refusal>, String) {
        let plan = self.decider.decide(situation).await;
        let text = match &plan {
            Ok(plan) => {
                let mut parameters = Value::Object(plan.parameters.clone());
                redact::value(&mut parameters);
                format!("{}, because {}: {parameters}", plan.action.as_str(), plan.reason)
            }
            Err(refusal) => format!("nothing can be done: {refusal}"),
        };
        (plan, text)
    }

    async fn act(&self, run: &Run, seen: &Observation, plan: &Plan) -> (RunEnd, String) {
        let ended = match self.do_plan(run, seen, plan).await {
            Ok(ended) => ended,
            Err(refusal) => RunEnd::terminal(refusal.message),
        };
        let text = in_short(&ended);
        (ended, text)
    }

    async fn do_plan(&self, run: &Run, seen: &Observation, plan: &Plan) -> Result<RunEnd, Refusal> {
        let fields = Fields { map: &plan.parameters, path: "payload" };
        let sample = seen.sample.as_ref().map_err(String::as_str);
        Ok(match plan.action {
            Action::Deploy => deploy::run(&DeployParameters::parse(fields)?),
            Action::Monitor => {
                let asked = MonitorParameters::parse(fields)?;
                let measured = monitor::Measured { sample };
                let probes = self.ports.probes.as_deref();
                monitor::run(&asked, run, measured, probes, &self.thresholds).await
            }
            Action::Alert => {
                let asked = AlertParameters::parse(fields)?;
                match self.ports.alerts.as_deref() {
                    Some(book) => alert::run(&asked, run, book).await,
                    None => RunEnd::Blocked {
                        reason: "alerts can't be kept: no alert book is configured".to_owned(),
                        question: None,
                    },
                }
            }
            Action::Investigate => {
                let asked = InvestigateParameters::parse(fields)?;
                let open = self.open_alerts(run, INVESTIGATED_ALERTS).await;
                let alerts = open.as_ref().map_err(String::as_str);
                let observed = investigate::Observed { sample, alerts };
                let (logs, history) = (self.ports.logs.as_ref(), self.ports.history.as_deref());
                investigate::run(&asked, run, observed, logs, history).await
            }
        })
    }
}

/// What the gates of a task are decided on: its type, or that of what its text asks for.
pub fn effective_type(task_type: TaskType, payload: &Map<String, Value>) -> TaskType {
    match crate::playbook::plan(task_type, payload).map(|plan| plan.action) {
        Ok(Action::Deploy) => TaskType::Deploy,
        Ok(Action::Monitor) => TaskType::Monitor,
        Ok(Action::Alert) => TaskType::Alert,
        Ok(Action::Investigate) => TaskType::Investigate,
        // Not to be planned, so it will fail; by then the stricter reading holds.
        Err(_) => payload
            .get("description")
            .and_then(Value::as_str)
            .and_then(classify)
            .filter(|_| Class::of_type(task_type).is_some())
            .map_or(task_type, |found| found.class.task_type()),
    }
}

fn in_short(ended: &RunEnd) -> String {
    let count = |result: &Map<String, Value>, name: &str| {
        result.get(name).and_then(Value::as_array).map(Vec::len)
    };
    match ended {
        RunEnd::Done { result, .. } => {
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
        RunEnd::Failed { error, .. } => format!("failed: {error}"),
        RunEnd::Blocked { reason, .. } => format!("blocked: {reason}"),
        RunEnd::Suspended { resume_at, note } => format!("waits until {resume_at}: {note}"),
        RunEnd::Withheld(withheld) => match &withheld.leave {
            Leave::Ask(asked) => format!("asks for leave: {}", asked.reason),
            Leave::Refused { error, .. } => format!("refused: {error}"),
            Leave::Hold { until, why } => format!("waits until {until}: {why}"),
            Leave::Granted { .. } => "has leave".to_owned(),
        },
    }
}

/// No secret leaves with a result, an error or an event.
fn clean(mut ended: RunEnd) -> RunEnd {
    match &mut ended {
        RunEnd::Done { result, events } => {
            redact::object(result);
            events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        }
        RunEnd::Failed { error, events, .. } => {
            *error = redact::shortened(error, 4_000);
            events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        }
        RunEnd::Blocked { reason, .. } => *reason = redact::shortened(reason, 4_000),
        RunEnd::Suspended { note, .. } => *note = redact::shortened(note, 500),
        // What is asked and refused is worded by governance, which hides secrets itself.
        RunEnd::Withheld(_) => {}
    }
    ended
}
