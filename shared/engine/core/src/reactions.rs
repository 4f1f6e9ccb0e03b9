//! Reactions: an event pattern, and the task it creates. Pure: both depend on the event alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use watchbill_domain::{Event, EventType, Priority, TaskType, TimestampError, parse_span};

/// The payload field of our own events that names the group an event belongs to.
pub const FOLD: &str = "fold";

/// A reaction in `reactions.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReactionForm {
    pub name: String,
    /// An event type (`deploy.failed`), or a noun with a star (`deploy.*`). A star matches only
    /// events that callers publish, never our own.
    pub on: String,
    /// Path in the event → the value, or the list of values, that it must have.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, Value>,
    /// Paths whose first value present names the subject; the event's id if none is present.
    #[serde(default)]
    pub subject: Vec<String>,
    /// The same reaction runs once per subject within this time.
    #[serde(default)]
    pub window: Option<String>,
    pub task: TemplateForm,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateForm {
    #[serde(rename = "type")]
    pub task_type: String,
    #[serde(default)]
    pub priority: Option<String>,
    #[serde(default)]
    pub payload: Map<String, Value>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A validated reaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    pub name: String,
    on: Pattern,
    conditions: BTreeMap<String, Vec<Value>>,
    subject: Vec<String>,
    pub window: Option<Duration>,
    task_type: TaskType,
    priority: Priority,
    payload: Map<String, Value>,
    metadata: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Pattern {
    Type(EventType),
    Group(String),
}

/// A number of a template that its parser may have rounded: whole, but no 64-bit integer.
fn rounded(value: &Value) -> Option<f64> {
    /// From here on not every whole number is a double (2^53).
    const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() >= EXACT_BELOW)
        }
        Value::Array(items) => items.iter().find_map(rounded),
        Value::Object(fields) => fields.values().find_map(rounded),
        _ => None,
    }
}

/// The task that a reaction creates for an event.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFromEvent {
    pub task_type: TaskType,
    pub priority: Priority,
    pub payload: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub subject: String,
    /// The event is one of a group: while the task created for one of them is open, the others
    /// are counted and create no task.
    pub folds: bool,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ReactionError {
    #[error("a reaction has no name")]
    NoName,
    #[error("two reactions are named '{name}'; names must differ")]
    Twice { name: String },
    #[error("reaction '{name}': {reason}")]
    Wrong { name: String, reason: String },
}

impl Reaction {
    pub fn check(form: ReactionForm) -> Result<Self, ReactionError> {
        let name = form.name.trim().to_owned();
        if name.is_empty() {
            return Err(ReactionError::NoName);
        }
        let wrong = |reason: String| ReactionError::Wrong { name: name.clone(), reason };
        let on = match form.on.strip_suffix(".*") {
            Some(noun) if EventType::parse(&format!("{noun}.x")).is_ok() => {
                Pattern::Group(noun.to_owned())
            }
            _ => Pattern::Type(EventType::parse(&form.on).map_err(|e| wrong(e.to_string()))?),
        };
        let window = form
            .window
            .as_deref()
            .map(parse_span)
            .transpose()
            .map_err(|e: TimestampError| wrong(format!("window: {e}")))?;
        let task_type =
            TaskType::parse(&form.task.task_type).map_err(|e| wrong(format!("task: {e}")))?;
        if task_type == TaskType::OpsCycle {
            return Err(wrong("only the schedule creates ops_cycle tasks".to_owned()));
        }
        let priority = match &form.task.priority {
            None => Priority::default(),
            Some(text) => Priority::parse(text).map_err(|e| wrong(format!("task: {e}")))?,
        };
        for (place, template) in
            [("payload", &form.task.payload), ("metadata", &form.task.metadata)]
        {
            if let Some(number) = template.values().find_map(rounded) {
                return Err(wrong(format!(
                    "task: {place} has the number {number}, which may have lost digits: write it \
                     as a string"
                )));
            }
        }
        let conditions = form.conditions.into_iter().map(|(path, wanted)| match wanted {
            Value::Array(any) => (path, any),
            one => (path, vec![one]),
        });
        Ok(Self {
            on,
            conditions: conditions.collect(),
            subject: form.subject,
            window,
            task_type,
            priority,
            payload: form.task.payload,
            metadata: form.task.metadata,
            name,
        })
    }

    /// Validates all reactions of a file; names must differ.
    pub fn check_all(forms: Vec<ReactionForm>) -> Result<Vec<Self>, ReactionError> {
        let mut reactions: Vec<Self> = Vec::new();
        for form in forms {
            let reaction = Self::check(form)?;
            if reactions.iter().any(|other| other.name == reaction.name) {
                return Err(ReactionError::Twice { name: reaction.name });
            }
            reactions.push(reaction);
        }
        Ok(reactions)
    }

    /// Whether an event of this type may match.
    pub fn may_match(&self, event_type: &EventType) -> bool {
        match &self.on {
            Pattern::Type(wanted) => wanted == event_type,
            Pattern::Group(noun) => event_type.group() == noun,
        }
    }

    /// The task it creates for an event; `None` if the event does not match.
    pub fn react(&self, event: &Event) -> Option<TaskFromEvent> {
        let starred = matches!(self.on, Pattern::Group(_));
        if !self.may_match(&event.event_type) || (starred && !is_published(event)) {
            return None;
        }
        let whole = serde_json::to_value(event).ok()?;
        let fits = |(path, wanted): (&String, &Vec<Value>)| {
            value_at(&whole, path).is_some_and(|found| wanted.contains(found))
        };
        if !self.conditions.iter().all(fits) {
            return None;
        }
        let subject = self
            .subject
            .iter()
            .find_map(|path| value_at(&whole, path).filter(|value| !value.is_null()))
            .map_or_else(|| event.event_id.to_string(), in_text);
        let mut reacted = TaskFromEvent {
            task_type: self.task_type,
            priority: self.priority,
            payload: fill_object(&self.payload, &whole),
            metadata: fill_object(&self.metadata, &whole),
            subject,
            folds: false,
        };
        // Only our own events fold: a caller's event could hide another caller's.
        if let Some(all) = event.payload.get(FOLD).filter(|_| !is_published(event)) {
            reacted.fold_into(&in_text(all), event);
        }
        Some(reacted)
    }
}

impl TaskFromEvent {
    /// Makes the task cover the whole group of the event, such as all tasks of a priority.
    fn fold_into(&mut self, all: &str, event: &Event) {
        let kind = event.payload.get("alert_type").map(in_text).unwrap_or_default();
        self.subject = format!("{}:{kind}:{all}", event.event_type);
        self.folds = true;
        if let Some(target) = self.payload.get_mut("target") {
            *target = Value::from(all);
        }
    }
}

/// Whether a caller published it, rather than Watchbill itself.
pub fn is_published(event: &Event) -> bool {
    event.metadata.contains_key("published_by")
}

fn value_at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

fn in_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Fields whose value is not in the event are left out.
fn fill_object(template: &Map<String, Value>, event: &Value) -> Map<String, Value> {
    template.iter().filter_map(|(name, value)| Some((name.clone(), fill(value, event)?))).collect()
}

/// `"{{payload.x}}"` alone becomes the value itself; within a longer text, the value's text.
fn fill(template: &Value, event: &Value) -> Option<Value> {
    match template {
        Value::String(text) => fill_text(text, event),
        Value::Object(map) => Some(Value::Object(fill_object(map, event))),
        Value::Array(items) => {
            Some(Value::Array(items.iter().filter_map(|item| fill(item, event)).collect()))
        }
        other => Some(other.clone()),
    }
}

fn fill_text(text: &str, event: &Value) -> Option<Value> {
    let whole = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    if let Some(path) = whole.filter(|path| !path.contains("{{")) {
        return value_at(event, path.trim()).filter(|value| !value.is_null()).cloned();
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let Some((path, after)) = after.split_once("}}") else {
            filled.push_str("{{");
            rest = after;
            continue;
        };
        filled.push_str(&value_at(event, path.trim()).map(in_text).unwrap_or_default());
        rest = after;
    }
    filled.push_str(rest);
    Some(Value::String(filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use watchbill_domain::{EventPriority, Timestamp};

    fn event(event_type: &str, payload: Value, published: bool) -> Event {
        let mut metadata = Map::new();
        if published {
            metadata.insert("published_by".into(), json!("ci"));
        }
        Event {
            event_id: watchbill_domain::EventId::parse("e1").unwrap(),
            event_type: EventType::parse(event_type).unwrap(),
            priority: EventPriority::High,
            source_agent: "ci".into(),
            trace_id: "t".into(),
            task_id: None,
            payload: payload.as_object().unwrap().clone(),
            timestamp: Timestamp::from_millis(0),
            metadata,
            hops: 0,
        }
    }

    fn reaction(form: Value) -> Result<Reaction, ReactionError> {
        Reaction::check(serde_json::from_value(form).unwrap())
    }

    #[test]
    fn values_of_the_event_go_into_the_task() {
        let reaction = reaction(json!({
            "name": "r", "on": "deploy.failed", "where": {"payload.env": ["production", "staging"]},
            "subject": ["payload.none", "payload.project"], "window": "10m",
            "task": {"type": "bugfix", "priority": "high", "payload": {
                "description": "Mend {{payload.project}} after {{event_type}}",
                "count": "{{payload.count}}", "gone": "{{payload.gone}}"}}
        }))
        .unwrap();
        let payload = json!({"env": "staging", "project": "shop", "count": 3});
        let made = reaction.react(&event("deploy.failed", payload, true)).unwrap();
        assert_eq!(made.priority, Priority::P1);
        assert_eq!(made.subject, "shop");
        let wanted = json!({"description": "Mend shop after deploy.failed", "count": 3});
        assert_eq!(Value::Object(made.payload), wanted);
        assert_eq!(reaction.react(&event("deploy.failed", json!({"env": "dev"}), true)), None);
        assert_eq!(reaction.react(&event("deploy.started", json!({"env": "staging"}), true)), None);
    }

    #[test]
    fn a_star_never_matches_our_own_events() {
        let form = json!({"name": "r", "on": "deploy.*", "task": {"type": "monitor"}});
        let reaction = reaction(form).unwrap();
        assert!(reaction.react(&event("deploy.started", json!({}), true)).is_some());
        assert!(reaction.react(&event("deploy.started", json!({}), false)).is_none());
    }

    #[test]
    fn faults_are_named() {
        let wrong = |form: Value| reaction(form).unwrap_err().to_string();
        let task = json!({"type": "monitor"});
        assert!(wrong(json!({"name": "a", "on": "Deploy", "task": task})).contains("'Deploy'"));
        assert!(
            wrong(json!({"name": "a", "on": "x.y", "task": {"type": "dance"}})).contains("dance")
        );
        let window = json!({"name": "a", "on": "x.y", "window": "soon", "task": task});
        assert!(wrong(window).contains("soon"));
    }
}
