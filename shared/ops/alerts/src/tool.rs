//! The tool `alert`: raises, looks up, groups, acknowledges and resolves alerts in the alert
//! store.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_domain::{EventType, Fields, LoggedEvent, Refusal, TaskType};

use async_trait::async_trait;
use watchbill_governance::{Operation, OperationRule, ToolClass, ToolSpec};
use watchbill_redact as redact;
use watchbill_runtime::ooda::Observation;
use watchbill_runtime::port_error::PortError;
use watchbill_runtime::run::{Retry, Run, RunOutcome};
use watchbill_runtime::tool::{Arguments, Tool, TypedTool, normalize, tool};

use super::model::{Alert, AlertMark, AlertStatus, AlertStore, OpenAlerts, RaiseAlert, Severity};

static SPEC: ToolSpec = ToolSpec {
    name: "alert",
    description: "Raises, looks up, groups, acknowledges and resolves alerts.",
    class: ToolClass::Safe,
    operation: OperationRule::Always(Operation::ManageAlerts),
    gate_type: TaskType::Alert,
    schema: || {
        json!({ "type": "object", "properties": {
            "action": { "enum": ["raise", "ack", "resolve", "list"], "default": "raise" },
            "alert_id": { "type": "string", "maxLength": 200 },
            "alert_type": { "type": "string", "maxLength": 120 },
            "target": { "type": "string", "maxLength": 200 },
            "severity": { "enum": ["critical", "high", "medium", "low"], "default": "medium" },
            "message": { "type": "string" },
            "labels": { "type": "object", "maxProperties": 32 },
        }})
    },
    normalize: normalize::<AlertParameters>,
};

/// Without an alert store the tool's tasks are blocked.
pub fn alert(store: Option<Arc<dyn AlertStore>>) -> Arc<dyn Tool> {
    tool(&SPEC, Alerts { store })
}

struct Alerts {
    store: Option<Arc<dyn AlertStore>>,
}

#[async_trait]
impl TypedTool<AlertParameters> for Alerts {
    async fn run(&self, run: &Run, _seen: &Observation, asked: &AlertParameters) -> RunOutcome {
        match self.store.as_deref() {
            Some(store) => act(asked, run, store).await,
            None => RunOutcome::Blocked {
                reason: "can't store alerts: no alert store is configured".to_owned(),
                question: None,
            },
        }
    }
}

/// The default alert type, the same that the orchestrator's own clients rely on.
const DEFAULT_SUBJECT: &str = "system";
/// Maximum number of alerts in one result.
const MAX_LISTED: usize = 50;
/// How many of the newest open alerts are searched for related ones.
const RELATED: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub enum AlertParameters {
    /// Stores it, or increments the open one. With `alert_id`, looks that alert up first.
    Raise {
        alert_id: Option<String>,
        alert_type: String,
        target: String,
        severity: Severity,
        message: String,
        labels: BTreeMap<String, String>,
    },
    Ack(AlertSelector),
    Resolve(AlertSelector),
    List {
        suggested_rules: Option<Value>,
    },
}

/// Selects one alert: by its id, or the open one of a type (and target).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertSelector {
    pub alert_id: Option<String>,
    pub alert_type: Option<String>,
    pub target: Option<String>,
}

impl Arguments for AlertParameters {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let action = fields.text("action")?.map(str::to_ascii_lowercase);
        match action.as_deref() {
            None | Some("raise" | "trigger") => Self::parse_raise(fields),
            Some("ack" | "acknowledge") => Ok(AlertParameters::Ack(AlertSelector::parse(fields)?)),
            Some("resolve" | "close") => {
                Ok(AlertParameters::Resolve(AlertSelector::parse(fields)?))
            }
            Some("list") => Ok(AlertParameters::List {
                suggested_rules: fields.get("suggested_rules").cloned(),
            }),
            Some(_) => {
                let value = fields.get("action").unwrap_or(&Value::Null);
                let needed = "'raise' (the default), 'ack', 'resolve' or 'list'";
                Err(Refusal::wrong(&fields.at("action"), value, needed))
            }
        }
    }

    fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                map.insert(name.to_owned(), value);
            }
        };
        match self {
            AlertParameters::Raise { alert_id, alert_type, target, severity, message, labels } => {
                put("action", "raise".into());
                put("alert_id", json!(alert_id));
                put("alert_type", json!(alert_type));
                put("target", json!(target));
                put("severity", severity.as_str().into());
                put("message", json!(message));
                if !labels.is_empty() {
                    put("labels", json!(labels));
                }
            }
            AlertParameters::Ack(which) | AlertParameters::Resolve(which) => {
                let ack = matches!(self, AlertParameters::Ack(_));
                put("action", if ack { "ack" } else { "resolve" }.into());
                put("alert_id", json!(which.alert_id));
                put("alert_type", json!(which.alert_type));
                put("target", json!(which.target));
            }
            AlertParameters::List { suggested_rules } => {
                put("action", "list".into());
                put("suggested_rules", json!(suggested_rules));
            }
        }
        map
    }
}

impl AlertParameters {
    fn parse_raise(fields: Fields<'_>) -> Result<Self, Refusal> {
        let alert_id = fields.bounded("alert_id", 200)?;
        let alert_type = match (fields.bounded("alert_type", 120)?, &alert_id) {
            (Some(alert_type), _) => alert_type,
            (None, Some(_)) => "unknown".to_owned(),
            (None, None) => DEFAULT_SUBJECT.to_owned(),
        };
        let severity = match fields.text("severity")? {
            None => Severity::Medium,
            Some(text) => Severity::parse(text)
                .map_err(|e| Refusal::new(format!("{}: {e}", fields.at("severity"))))?,
        };
        let labels = labels(fields)?;
        let target = fields
            .bounded("target", 200)?
            .or(fields.bounded("service", 200)?)
            .or_else(|| labels.get("service").cloned())
            .unwrap_or_else(|| "system".to_owned());
        let message = fields.text("message")?.or(fields.text("description")?);
        let message = redact::shortened(message.unwrap_or(&alert_type), 2_000);
        Ok(AlertParameters::Raise { alert_id, alert_type, target, severity, message, labels })
    }
}

impl AlertSelector {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let which = AlertSelector {
            alert_id: fields.bounded("alert_id", 200)?,
            alert_type: fields.bounded("alert_type", 120)?,
            target: fields.bounded("target", 200)?,
        };
        if which.alert_id.is_none() && which.alert_type.is_none() {
            let what = "the alert's id, or its alert_type";
            return Err(Refusal::missing(&fields.at("alert_id"), what));
        }
        Ok(which)
    }

    fn describe(&self) -> String {
        match (&self.alert_id, &self.alert_type, &self.target) {
            (Some(id), _, _) => format!("alert with id '{id}'"),
            (None, kind, target) => {
                let kind = kind.as_deref().unwrap_or_default();
                let on = target.as_ref().map(|t| format!(" on '{t}'")).unwrap_or_default();
                format!("open alert of type '{kind}'{on}")
            }
        }
    }
}

fn labels(fields: Fields<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let map = match fields.get("labels") {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(Refusal::wrong(&fields.at("labels"), other, "an object of strings"));
        }
    };
    if map.len() > 32 {
        let text = format!("{} has {} entries; the maximum is 32", fields.at("labels"), map.len());
        return Err(Refusal::new(text));
    }
    let mut clean = map.clone();
    redact::object(&mut clean);
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(clean
        .into_iter()
        .map(|(k, v)| (k, redact::text(&text(v)).chars().take(200).collect()))
        .collect())
}

/// Carries out the requested action on the alert store.
pub async fn act(asked: &AlertParameters, run: &Run, store: &dyn AlertStore) -> RunOutcome {
    let ended = match asked {
        AlertParameters::Raise { .. } => raise(asked, run, store).await,
        AlertParameters::Ack(which) => change(which, Change::Ack, run, store).await,
        AlertParameters::Resolve(which) => change(which, Change::Resolve, run, store).await,
        AlertParameters::List { suggested_rules } => {
            list(suggested_rules.as_ref(), run, store).await
        }
    };
    ended.unwrap_or_else(|error| RunOutcome::Failed {
        error: error.to_string(),
        retry: if error.is_retryable() { Retry::Yes { after: None } } else { Retry::No },
        events: Vec::new(),
    })
}

async fn raise(
    asked: &AlertParameters,
    run: &Run,
    store: &dyn AlertStore,
) -> Result<RunOutcome, PortError> {
    let AlertParameters::Raise { alert_id, alert_type, target, severity, message, labels } = asked
    else {
        return Ok(RunOutcome::terminal("the arguments raise no alert"));
    };
    let tenant = &run.task.tenant;
    if let Some(id) = alert_id
        && let Some(known) = store.find(tenant, id).await?
    {
        let group = group_of(&known, store.list_open(tenant, RELATED).await?);
        let action = done("looked_up", &known, format!("it is {}", known.status.as_str()));
        return Ok(outcome(&known, group, action, Vec::new()));
    }
    let mut labels = labels.clone();
    if let Some(id) = alert_id {
        labels.insert("external_id".to_owned(), id.clone());
    }
    let raise = RaiseAlert {
        alert_type: alert_type.clone(),
        target: target.clone(),
        severity: *severity,
        message: message.clone(),
        labels,
        task_id: run.task.id.clone(),
        at: run.clock.now(),
    };
    let alert = store.raise(tenant, raise).await?;
    let group = group_of(&alert, store.list_open(tenant, RELATED).await?);
    let new = alert.count <= 1;
    let (what, why) = match (new, alert.status) {
        (true, _) => ("opened", "no alert of this type and target was open".to_owned()),
        (false, AlertStatus::Acknowledged) => {
            let who = alert.acknowledged.as_ref().map_or("somebody", |mark| mark.by.as_str());
            (
                "counted",
                format!("seen {} times; {who} has acknowledged it, so it stays quiet", alert.count),
            )
        }
        (false, _) => ("counted", format!("already open, now seen {} times", alert.count)),
    };
    let action = done(what, &alert, why);
    let events =
        if new && !stems_from_alert(run) { event("alert.triggered", &alert) } else { Vec::new() };
    Ok(outcome(&alert, group, action, events))
}

/// A task created by `alert.triggered` must not publish that event again.
fn stems_from_alert(run: &Run) -> bool {
    let task = &run.task;
    let names_event =
        |text: &str| text.contains("alert.triggered") || text.contains("alert_triggered");
    let metadata = ["event_type", "reaction", "cause", "trigger"]
        .iter()
        .filter_map(|name| task.metadata.get(*name).and_then(Value::as_str));
    names_event(&task.source) || metadata.into_iter().any(names_event)
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Ack,
    Resolve,
}

async fn change(
    which: &AlertSelector,
    change: Change,
    run: &Run,
    store: &dyn AlertStore,
) -> Result<RunOutcome, PortError> {
    let tenant = &run.task.tenant;
    let found = match (&which.alert_id, &which.alert_type) {
        (Some(id), _) => store.find(tenant, id).await?,
        (None, Some(kind)) => store.find_open(tenant, kind, which.target.as_deref()).await?,
        (None, None) => None,
    };
    let open = store.list_open(tenant, RELATED).await?;
    let Some(found) = found else {
        return Ok(RunOutcome::terminal(format!(
            "there is no {}: {} alerts are open",
            which.describe(),
            open.counted()
        )));
    };
    let by = run.task.created_by.clone();
    let mark = AlertMark { by, task_id: run.task.id.clone(), at: run.clock.now() };
    let after = match change {
        Change::Ack => store.acknowledge(tenant, &found.alert_id, mark).await?,
        Change::Resolve => store.resolve(tenant, &found.alert_id, mark).await?,
    };
    let Some(alert) = after else {
        return Ok(RunOutcome::terminal(format!(
            "the {} was removed while it was changed",
            which.describe()
        )));
    };
    let (mark, event_type, what) = match change {
        Change::Ack => (&alert.acknowledged, "alert.ack", "acknowledged"),
        Change::Resolve => (&alert.resolved, "alert.resolved", "resolved"),
    };
    // An earlier run of this task may have made the change and crashed. Then this run publishes
    // it.
    let ours = mark.as_ref().is_some_and(|mark| mark.task_id == run.task.id);
    let action = if ours {
        done(what, &alert, format!("requested by {}", run.task.created_by))
    } else {
        let status = alert.status.as_str();
        done("left", &alert, format!("it is already {status}, so nothing was changed"))
    };
    let group = group_of(&alert, open);
    let events = if ours { event(event_type, &alert) } else { Vec::new() };
    Ok(outcome(&alert, group, action, events))
}

async fn list(
    suggested: Option<&Value>,
    run: &Run,
    store: &dyn AlertStore,
) -> Result<RunOutcome, PortError> {
    let open = store.list_open(&run.task.tenant, MAX_LISTED).await?;
    let mut actions = vec![json!({
        "action": "listed",
        "why": format!("{} alerts are open", open.counted()),
    })];
    let mut result = Map::new();
    if let Some(rules) = suggested {
        actions.push(json!({
            "action": "none",
            "why": "a rule was requested, but this build stores no rules: nothing evaluates it",
        }));
        result.insert("suggested_rules".to_owned(), rules.clone());
    }
    let alerts: Vec<Value> = open.newest.iter().map(|a| shown(a, "open")).collect();
    result.insert("success".to_owned(), true.into());
    result.insert("alerts".to_owned(), alerts.into());
    result.insert("actions".to_owned(), actions.into());
    Ok(RunOutcome::Done { result, events: Vec::new() })
}

/// The open alerts of the same target or type, which may have the same cause.
fn group_of(alert: &Alert, open: OpenAlerts) -> Vec<Alert> {
    let related = |other: &Alert| {
        other.alert_id != alert.alert_id
            && (other.target == alert.target || other.alert_type == alert.alert_type)
    };
    open.newest.into_iter().filter(related).collect()
}

fn done(what: &str, alert: &Alert, why: String) -> Value {
    json!({"action": what, "alert_id": alert.alert_id, "why": why})
}

fn event(event_type: &str, alert: &Alert) -> Vec<LoggedEvent> {
    let Ok(event_type) = EventType::parse(event_type) else { return Vec::new() };
    let payload = json!({
        "alert_id": alert.alert_id,
        "alert_type": alert.alert_type,
        "target": alert.target,
        "severity": alert.severity.as_str(),
        "status": alert.status.as_str(),
        "message": redact::shortened(&alert.message, 500),
        "count": alert.count,
    });
    let Value::Object(payload) = payload else { return Vec::new() };
    vec![LoggedEvent { event_type, payload }]
}

fn outcome(
    alert: &Alert,
    group: Vec<Alert>,
    action: Value,
    events: Vec<LoggedEvent>,
) -> RunOutcome {
    let mut alerts = vec![shown(alert, "subject")];
    alerts.extend(group.iter().map(|other| shown(other, "related")));
    let mut actions = vec![action];
    if !group.is_empty() {
        let worst = group.iter().map(|other| other.severity).max().unwrap_or(alert.severity);
        actions.push(json!({
            "action": "grouped",
            "why": format!(
                "{} other open alerts share its target or type, the worst of them {}",
                group.len(),
                worst.as_str()
            ),
        }));
    }
    let mut result = Map::new();
    result.insert("success".to_owned(), true.into());
    result.insert("alerts".to_owned(), alerts.into());
    result.insert("actions".to_owned(), actions.into());
    RunOutcome::Done { result, events }
}

fn shown(alert: &Alert, role: &str) -> Value {
    json!({
        "alert_id": alert.alert_id,
        "alert_type": alert.alert_type,
        "target": alert.target,
        "severity": alert.severity.as_str(),
        "status": alert.status.as_str(),
        "message": redact::shortened(&alert.message, 500),
        "count": alert.count,
        "first_seen": alert.first_seen.to_string(),
        "last_seen": alert.last_seen.to_string(),
        "labels": alert.labels,
        "acknowledged_by": alert.acknowledged.as_ref().map(|mark| &mark.by),
        "resolved_by": alert.resolved.as_ref().map(|mark| &mark.by),
        "role": role,
    })
}
