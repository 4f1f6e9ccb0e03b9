//! Alert: raises, looks up, groups, acknowledges and resolves alerts in the alert book.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_domain::{EventType, Fields, LoggedEvent, Refusal, TaskType};

use async_trait::async_trait;
use watchbill_governance::{Operation, OperationRule, ToolClass, ToolSpec};
use watchbill_redact as redact;
use watchbill_runtime::ooda::Observation;
use watchbill_runtime::port_error::PortError;
use watchbill_runtime::run::{Retry, Run, RunEnd};
use watchbill_runtime::tool::{Arguments, Tool, TypedTool, normalize, tool};

use super::model::{Alert, AlertBook, AlertMark, AlertStatus, OpenAlerts, RaiseAlert, Severity};

/// The tool `alert`.
static SPEC: ToolSpec = ToolSpec {
    name: "alert",
    description: "Raises, looks up, groups, acknowledges and resolves alerts.",
    class: ToolClass::Safe,
    operation: OperationRule::Always(Operation::ManageAlerts),
    gated_as: TaskType::Alert,
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

/// Without a book its tasks are blocked.
pub fn alert(book: Option<Arc<dyn AlertBook>>) -> Arc<dyn Tool> {
    tool(&SPEC, Alerts { book })
}

struct Alerts {
    book: Option<Arc<dyn AlertBook>>,
}

#[async_trait]
impl TypedTool<AlertParameters> for Alerts {
    async fn run(&self, run: &Run, _seen: &Observation, asked: &AlertParameters) -> RunEnd {
        match self.book.as_deref() {
            Some(book) => act(asked, run, book).await,
            None => RunEnd::Blocked {
                reason: "alerts can't be kept: no alert book is configured".to_owned(),
                question: None,
            },
        }
    }
}

/// What kind of alert it is where nobody says: as the orchestrator's own clients leave it to
/// their worker.
const UNSAID: &str = "system";
/// Alerts told in one result.
const MOST_TOLD: usize = 50;
/// Open alerts, the newest, that are looked through for what may have one cause with another.
const RELATED: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub enum AlertParameters {
    /// Store it, or count up the open one; with `alert_id`, look that one up first.
    Raise {
        alert_id: Option<String>,
        alert_type: String,
        target: String,
        severity: Severity,
        message: String,
        labels: BTreeMap<String, String>,
    },
    Ack(Which),
    Resolve(Which),
    List {
        suggested_rules: Option<Value>,
    },
}

/// One alert: by its id, or the open one of a type (and target).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Which {
    pub alert_id: Option<String>,
    pub alert_type: Option<String>,
    pub target: Option<String>,
}

impl Arguments for AlertParameters {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let action = fields.text("action")?.map(str::to_ascii_lowercase);
        match action.as_deref() {
            None | Some("raise" | "trigger") => Self::parse_raise(fields),
            Some("ack" | "acknowledge") => Ok(AlertParameters::Ack(Which::parse(fields)?)),
            Some("resolve" | "close") => Ok(AlertParameters::Resolve(Which::parse(fields)?)),
            Some("list") => Ok(AlertParameters::List {
                suggested_rules: fields.get("suggested_rules").cloned(),
            }),
            Some(_) => {
                let value = fields.get("action").unwrap_or(&Value::Null);
                let needed = "'ack', 'resolve' or 'list', or left out to raise the alert";
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
            (None, None) => UNSAID.to_owned(),
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

impl Which {
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal> {
        let which = Which {
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

    fn in_words(&self) -> String {
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
            return Err(Refusal::wrong(&fields.at("labels"), other, "an object of texts"));
        }
    };
    if map.len() > 32 {
        let text = format!("{} has {} entries, 32 are the most", fields.at("labels"), map.len());
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

/// Does what is asked of the book.
pub async fn act(asked: &AlertParameters, run: &Run, book: &dyn AlertBook) -> RunEnd {
    let ended = match asked {
        AlertParameters::Raise { .. } => raise(asked, run, book).await,
        AlertParameters::Ack(which) => change(which, Change::Ack, run, book).await,
        AlertParameters::Resolve(which) => change(which, Change::Resolve, run, book).await,
        AlertParameters::List { suggested_rules } => {
            list(suggested_rules.as_ref(), run, book).await
        }
    };
    ended.unwrap_or_else(|error| RunEnd::Failed {
        error: error.to_string(),
        retry: if error.is_retryable() { Retry::Yes { after: None } } else { Retry::No },
        events: Vec::new(),
    })
}

async fn raise(
    asked: &AlertParameters,
    run: &Run,
    book: &dyn AlertBook,
) -> Result<RunEnd, PortError> {
    let AlertParameters::Raise { alert_id, alert_type, target, severity, message, labels } = asked
    else {
        return Ok(RunEnd::terminal("not an alert to raise"));
    };
    let tenant = &run.task.tenant;
    if let Some(id) = alert_id
        && let Some(known) = book.find(tenant, id).await?
    {
        let group = group_of(&known, book.list_open(tenant, RELATED).await?);
        let action = done("looked_up", &known, format!("it is {}", known.status.as_str()));
        return Ok(told(&known, group, action, Vec::new()));
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
    let alert = book.raise(tenant, raise).await?;
    let group = group_of(&alert, book.list_open(tenant, RELATED).await?);
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
    Ok(told(&alert, group, action, events))
}

/// A task made by `alert.triggered` must not publish it again.
fn stems_from_alert(run: &Run) -> bool {
    let task = &run.task;
    let says = |text: &str| text.contains("alert.triggered") || text.contains("alert_triggered");
    let metadata = ["event_type", "reaction", "cause", "trigger"]
        .iter()
        .filter_map(|name| task.metadata.get(*name).and_then(Value::as_str));
    says(&task.source) || metadata.into_iter().any(says)
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Ack,
    Resolve,
}

async fn change(
    which: &Which,
    change: Change,
    run: &Run,
    book: &dyn AlertBook,
) -> Result<RunEnd, PortError> {
    let tenant = &run.task.tenant;
    let found = match (&which.alert_id, &which.alert_type) {
        (Some(id), _) => book.find(tenant, id).await?,
        (None, Some(kind)) => book.find_open(tenant, kind, which.target.as_deref()).await?,
        (None, None) => None,
    };
    let open = book.list_open(tenant, RELATED).await?;
    let Some(found) = found else {
        return Ok(RunEnd::terminal(format!(
            "there is no {}: {} alerts are open",
            which.in_words(),
            open.counted()
        )));
    };
    let by = run.task.created_by.clone();
    let mark = AlertMark { by, task_id: run.task.id.clone(), at: run.clock.now() };
    let after = match change {
        Change::Ack => book.acknowledge(tenant, &found.alert_id, mark).await?,
        Change::Resolve => book.resolve(tenant, &found.alert_id, mark).await?,
    };
    let Some(alert) = after else {
        return Ok(RunEnd::terminal(format!("{} went while it was changed", which.in_words())));
    };
    let (mark, event_type, what) = match change {
        Change::Ack => (&alert.acknowledged, "alert.ack", "acknowledged"),
        Change::Resolve => (&alert.resolved, "alert.resolved", "resolved"),
    };
    // Another run of this same task may have changed it before a crash: still ours to tell.
    let ours = mark.as_ref().is_some_and(|mark| mark.task_id == run.task.id);
    let action = if ours {
        done(what, &alert, format!("asked by {}", run.task.created_by))
    } else {
        let status = alert.status.as_str();
        done("left", &alert, format!("it is already {status}, so nothing was changed"))
    };
    let group = group_of(&alert, open);
    let events = if ours { event(event_type, &alert) } else { Vec::new() };
    Ok(told(&alert, group, action, events))
}

async fn list(
    suggested: Option<&Value>,
    run: &Run,
    book: &dyn AlertBook,
) -> Result<RunEnd, PortError> {
    let open = book.list_open(&run.task.tenant, MOST_TOLD).await?;
    let mut actions = vec![json!({
        "action": "listed",
        "why": format!("{} alerts are open", open.counted()),
    })];
    let mut result = Map::new();
    if let Some(rules) = suggested {
        actions.push(json!({
            "action": "none",
            "why": "a rule was asked for, but rules are not kept in this build: nothing watches it",
        }));
        result.insert("suggested_rules".to_owned(), rules.clone());
    }
    let alerts: Vec<Value> = open.newest.iter().map(|a| shown(a, "open")).collect();
    result.insert("success".to_owned(), true.into());
    result.insert("alerts".to_owned(), alerts.into());
    result.insert("actions".to_owned(), actions.into());
    Ok(RunEnd::Done { result, events: Vec::new() })
}

/// Of the newest open alerts those of the same target or type: what may have one cause.
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

fn told(alert: &Alert, group: Vec<Alert>, action: Value, events: Vec<LoggedEvent>) -> RunEnd {
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
    RunEnd::Done { result, events }
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
