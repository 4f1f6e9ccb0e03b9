//! Events on the orchestrator's channels.

use serde_json::{Map, Value, json};
use watchbill_domain::{EventId, EventPriority, EventType, TaskId, derived_uuid, escape_id};
use watchbill_redact as redact;
use watchbill_wire::legacy::{LegacyEvent, legacy_id};
use watchbill_wire::{EventView, PublishEvent, TaskView, with_exact_numbers};

use super::RELAYED_BY;

/// Marks our own events on the channels.
pub(super) const US: &str = "watchbill";
/// Prefix of the ids of events imported from Redis; our own ids never start with it.
pub(super) const FROM: &str = "redis:";

/// An event for the channels, with only the orchestrator's fields. `None` for an event that
/// came from there. `task`: the event's task, if known.
pub fn event_for_peer(view: &EventView, task: Option<&TaskView>) -> Option<String> {
    if view.event_id.as_str().starts_with(FROM) {
        return None;
    }
    let mut event = view.clone();
    event.metadata.insert(RELAYED_BY.into(), US.into());
    if let Some(id) = task.and_then(|task| TaskId::parse(task.peer_id()).ok()) {
        event.task_id = Some(id);
    }
    Some(serde_json::to_string(&event).expect("an event serializes to JSON"))
}

/// Reads an event from the channels. `None` for our own.
pub fn read_peer_event(text: &str) -> Result<Option<LegacyEvent>, String> {
    let mut map: Map<String, Value> = serde_json::from_str(&with_exact_numbers(text))
        .map_err(|error| format!("it is not a JSON object: {error}"))?;
    let metadata = map.remove("metadata").unwrap_or_default();
    if metadata.get(RELAYED_BY).and_then(Value::as_str) == Some(US) {
        return Ok(None);
    }
    let text_of =
        |name: &str| map.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let event_type = text_of("event_type").ok_or("it has no event_type")?;
    let event_type = EventType::parse(event_type).map_err(|error| error.to_string())?;
    let id = match text_of("event_id") {
        Some(id) if id.len() + FROM.len() <= 128 => format!("{FROM}{}", escape_id(id)),
        // Without an id, or with one that is too long, the id is derived from the text.
        _ => format!("{FROM}{}", derived_uuid(&["redis event", text])),
    };
    let id = EventId::parse(&id).map_err(|error| error.to_string())?;
    let peer_task = text_of("task_id").map(str::to_owned);
    let task_id = peer_task.as_deref().map(legacy_id).transpose()?;
    let trace_id = text_of("trace_id").filter(|trace| trace.len() <= 128).map(str::to_owned);
    let priority = text_of("priority").filter(|word| EventPriority::parse(word).is_ok());
    let event = PublishEvent {
        event_type,
        source_agent: redact::shortened(text_of("source_agent").unwrap_or("redis"), 64),
        task_id,
        trace_id,
        priority: priority.map(str::to_owned),
        payload: match map.get("payload") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(payload)) => payload.clone(),
            Some(other) => Map::from_iter([("value".to_owned(), json!(other))]),
        },
    };
    let hops = metadata.get("hops").and_then(Value::as_u64).unwrap_or(0);
    let hops = u8::try_from(hops).unwrap_or(u8::MAX);
    Ok(Some(LegacyEvent { id, event, peer_task, hops }))
}
