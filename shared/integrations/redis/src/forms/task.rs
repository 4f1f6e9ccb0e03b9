//! Tasks of the orchestrator's queue.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use watchbill_domain::{
    Agent, MAX_SPAN, Priority, Status, TaskLimits, TaskType, Timestamp, names_repository,
    parse_span,
};
use watchbill_redact as redact;
use watchbill_wire::legacy::{Addressee, Assignee, LEGACY_ID, LegacyTaskView, legacy_id, mark};
use watchbill_wire::{CreateTask, METADATA_LIMIT, TaskView, is_trace, with_exact_numbers};

use super::{VIA, iso, lenient};

/// Marks tasks of this queue.
const QUEUE: &str = "redis";
/// The sources that the orchestrator knows; it can't read a task with any other.
const SOURCES: &[&str] = &["faq", "ops", "dev", "user", "system", "webhook"];
/// The most characters of a source, as over HTTP.
const SOURCE: usize = 64;

/// Names are compared exactly, as the orchestrator's workers do.
fn assignee_of(map: &Map<String, Value>) -> Assignee {
    match map.get("assigned_to") {
        None | Some(Value::Null) => Assignee::Nobody,
        Some(Value::String(name)) if name.is_empty() => Assignee::Nobody,
        Some(Value::String(name)) => Agent::parse(name).map_or(Assignee::Other, Assignee::Known),
        Some(_) => Assignee::Other,
    }
}

/// A task's addressee, even if the task is otherwise unreadable; `None` if legacy programs
/// can't read it either.
pub fn addressee(data: &str) -> Option<Addressee> {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let map = read(&with_exact_numbers(data)).or_else(|| read(&lenient::as_json(data)))?;
    Some(Addressee {
        assignee: assignee_of(&map),
        task_type: text(&map, "type").and_then(|word| TaskType::parse(word).ok()),
        has_repo: map.get("payload").and_then(Value::as_object).is_some_and(names_repository),
    })
}

/// Reads a queue task. Errors are messages for people. A merely malformed value, such as an SLA
/// in free text, is kept unchanged in the metadata.
pub fn read_legacy_task(id: &str, data: &str) -> Result<LegacyTaskView, String> {
    legacy_id(id)?;
    let mut map: Map<String, Value> = serde_json::from_str(&with_exact_numbers(data))
        .map_err(|error| format!("its data is not a JSON object: {error}"))?;
    let task_id = map.get("task_id").and_then(Value::as_str);
    if let Some(other) = task_id.filter(|task_id| *task_id != id) {
        let other = redact::shortened(other, 64);
        return Err(format!("its data has the task_id of another task, '{other}'"));
    }
    let task_type = text(&map, "type").ok_or("its data has no type")?;
    let task_type = TaskType::parse(task_type).map_err(|error| error.to_string())?;
    if task_type == TaskType::OpsCycle {
        return Err("its type is ops_cycle, which only the schedule creates".to_owned());
    }
    let priority = match text(&map, "priority") {
        None => Priority::default(),
        Some(word) => Priority::parse(word).map_err(|error| error.to_string())?,
    };
    let status = match text(&map, "status") {
        None => Status::Pending,
        Some(word) => Status::parse(word).map_err(|error| error.to_string())?,
    };
    let assignee = assignee_of(&map);
    let source = text(&map, "source").unwrap_or("user");
    if source.chars().count() > SOURCE || source.contains(char::is_control) {
        return Err(format!("its source is not one line of at most {SOURCE} characters"));
    }
    let source = source.to_owned();
    let created_at = text(&map, "created_at").and_then(moment);
    let trace_id = text(&map, "trace_id").map(str::to_owned).filter(|trace| is_trace(trace));
    let max_retries = map.get("max_retries").and_then(Value::as_u64).map(|n| n.min(100) as u32);
    let payload = object(&mut map, "payload", TaskLimits::PAYLOAD)?;
    let mut metadata = object(&mut map, "metadata", METADATA_LIMIT)?;
    let (sla_target, sla_deadline) = sla(&map, &mut metadata);
    if let Some(parent) = text(&map, "parent_task_id") {
        metadata.insert("parent_task_id".into(), parent.into());
    }
    // A finished task's result is shown here; an existing one is from an earlier run.
    metadata.remove("result");
    metadata.insert(VIA.into(), QUEUE.into());
    mark(&mut metadata, id);
    let task = CreateTask {
        task_type,
        priority,
        source,
        payload,
        metadata,
        sla_target,
        sla_deadline,
        parent: None,
        max_retries,
    };
    Ok(LegacyTaskView { status, assignee, created_at, trace_id, task })
}

/// Whether a task came from the orchestrator's queue.
pub(super) fn is_of_queue(view: &TaskView) -> bool {
    view.metadata.get(VIA).and_then(Value::as_str) == Some(QUEUE)
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    map.get(name).and_then(Value::as_str)
}

/// A time as Python writes it: UTC if it has no zone.
fn moment(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|_| Timestamp::parse(&format!("{text}Z"))).ok()
}

fn object(
    map: &mut Map<String, Value>,
    name: &str,
    most: usize,
) -> Result<Map<String, Value>, String> {
    let object = match map.remove(name) {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(format!("its {name} is not a JSON object")),
    };
    let bytes = serde_json::to_vec(&object).map_or(usize::MAX, |json| json.len());
    match bytes > most {
        true => Err(format!("its {name} has {bytes} bytes; the maximum is {most}")),
        false => Ok(object),
    }
}

/// The deadline, or else the target. An unreadable SLA does not reject the task.
fn sla(
    map: &Map<String, Value>,
    metadata: &mut Map<String, Value>,
) -> (Option<String>, Option<Timestamp>) {
    let Some(sla) = map.get("sla").filter(|sla| !sla.is_null()) else { return (None, None) };
    let text = |name: &str| sla.get(name).and_then(Value::as_str);
    if let Some(deadline) = text("deadline").and_then(moment) {
        return (None, Some(deadline));
    }
    let target = match sla.get("target") {
        Some(Value::String(target)) => Some(target.clone()),
        Some(Value::Number(seconds)) => Some(seconds.to_string()),
        _ => None,
    };
    let fits = |target: &String| {
        parse_span(target).is_ok_and(|span| span.as_secs() >= 1 && span <= MAX_SPAN)
    };
    match target.filter(fits) {
        Some(target) => (Some(target), None),
        None => {
            metadata.insert("sla".into(), sla.clone());
            (None, None)
        }
    }
}

/// A priority's score in the queue; the lowest comes first.
pub fn score(priority: Priority) -> f64 {
    match priority {
        Priority::P0 => 1.0,
        Priority::P1 => 2.0,
        Priority::P2 => 3.0,
        Priority::P3 => 4.0,
    }
}

pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain values serialize to JSON")
}

/// Writes our changes over the stored task and keeps all else byte for byte. If there is no
/// readable task, writes a whole one.
pub fn merge_task(data: Option<&str>, view: &TaskView) -> String {
    let stored = data.and_then(|data| serde_json::from_str(data).ok());
    let Some(mut map): Option<BTreeMap<String, Box<RawValue>>> = stored else {
        return compose_task(view, view.assigned_to.as_str());
    };
    let mut set = |name: &str, value: Value| map.insert(name.to_owned(), raw(&value));
    set("status", json!(view.status));
    set("started_at", json!(view.started_at.map(iso)));
    set("completed_at", json!(view.completed_at.map(iso)));
    set("error", json!(view.error));
    set("retry_count", json!(view.retry_count));
    let nobody = map.get("assigned_to").is_none_or(|agent| agent.get() == "null");
    if nobody {
        map.insert("assigned_to".to_owned(), raw(&view.assigned_to));
    }
    if let Some(result) = view.metadata.get("result") {
        let stored = map.get("metadata").and_then(|raw| serde_json::from_str(raw.get()).ok());
        let mut metadata: BTreeMap<String, Box<RawValue>> = stored.unwrap_or_default();
        metadata.insert("result".to_owned(), raw(result));
        map.insert("metadata".to_owned(), raw(&metadata));
    }
    serde_json::to_string(&map).expect("raw JSON serializes to JSON")
}

/// A whole task in the orchestrator's format. `assigned_to`: its worker's own name.
pub fn compose_task(view: &TaskView, assigned_to: &str) -> String {
    let source = match view.source.as_str() {
        known if SOURCES.contains(&known) => known,
        _ => "system",
    };
    let sla = view.sla.as_ref().map(|sla| {
        json!({
            "target": sla.target,
            "deadline": iso(sla.deadline),
            "alert_threshold": sla.alert_threshold,
        })
    });
    let mut metadata = view.metadata.clone();
    metadata.remove(LEGACY_ID);
    let task = json!({
        "task_id": view.peer_id(),
        "type": view.task_type,
        "priority": view.priority,
        "source": source,
        "status": view.status,
        "payload": view.payload,
        "trace_id": view.trace_id,
        "sla": sla,
        "assigned_to": assigned_to,
        "created_at": iso(view.created_at),
        "started_at": view.started_at.map(iso),
        "completed_at": view.completed_at.map(iso),
        "parent_task_id": view.parent_task_id,
        "child_task_ids": view.child_task_ids,
        "metadata": metadata,
        "error": view.error,
        "retry_count": view.retry_count,
        "max_retries": view.max_retries,
    });
    task.to_string()
}
