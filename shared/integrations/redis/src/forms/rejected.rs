//! Fails a task or message that can't be imported, in every format that its clients watch.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use watchbill_domain::{EventId, EventType, Timestamp, derived_uuid};
use watchbill_redact as redact;
use watchbill_wire::legacy::{LegacyEvent, legacy_id};
use watchbill_wire::{PublishEvent, is_trace};

use super::event::{FROM, US};
use super::task::raw;
use super::{RELAYED_BY, iso};

const FAILED: &str = "task.failed";
/// The most characters of a reason.
const REASON: usize = 500;

/// The failure of a queue task that can't be imported, for clients that watch its hash or its
/// event.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// The task's new data.
    pub data: String,
    /// The event for the channels.
    pub event: String,
    /// The same event for the bundle. Its id is derived from the stored data, so that the same
    /// task is rejected once.
    pub record: LegacyEvent,
}

impl Rejection {
    /// `data`: the stored data, if it was text.
    pub fn new(id: &str, data: Option<&str>, reason: &str, at: Timestamp) -> Self {
        let reason = redact::shortened(reason, REASON);
        let stored = data.and_then(|data| serde_json::from_str(data).ok());
        let stored: Option<BTreeMap<String, Box<RawValue>>> = stored;
        let text = |name: &str| -> Option<String> {
            let text: String = serde_json::from_str(stored.as_ref()?.get(name)?.get()).ok()?;
            Some(text).filter(|text| !text.is_empty())
        };
        let source = redact::shortened(&text("assigned_to").unwrap_or("orchestrator".into()), 64);
        let trace = text("trace_id").filter(|trace| is_trace(trace));
        let mut payload = Map::from_iter([
            ("error".to_owned(), Value::from(reason.as_str())),
            ("rejected".to_owned(), true.into()),
        ]);
        if let Some(task_type) = text("type") {
            payload.insert("task_type".to_owned(), redact::shortened(&task_type, 64).into());
        }
        let event_id = derived_uuid(&["redis rejected", id, data.unwrap_or_default()]).to_string();
        let event = json!({
            "event_id": event_id,
            "event_type": FAILED,
            "priority": "high",
            "source_agent": source,
            "trace_id": trace.as_deref().unwrap_or(&event_id),
            "task_id": id,
            "payload": payload,
            "timestamp": iso(at),
            "metadata": { RELAYED_BY: US },
        });
        let data = match stored {
            Some(stored) => failed(stored, &reason, at),
            None => whole(id, &reason, at),
        };
        let record = record(id, &event_id, source, trace, payload);
        Self { data, event: event.to_string(), record }
    }
}

fn record(
    id: &str,
    event_id: &str,
    source_agent: String,
    trace_id: Option<String>,
    mut payload: Map<String, Value>,
) -> LegacyEvent {
    let task_id = legacy_id(id).ok();
    if task_id.is_none() {
        payload.insert("peer_id".to_owned(), redact::shortened(id, 200).into());
    }
    LegacyEvent {
        id: EventId::parse(&format!("{FROM}{event_id}"))
            .expect("a prefix and a UUID make a valid id"),
        event: PublishEvent {
            event_type: EventType::parse(FAILED).expect("task.failed is a valid event type"),
            source_agent,
            payload,
            task_id,
            trace_id,
            priority: Some("high".to_owned()),
        },
        peer_task: Some(id.to_owned()),
        hops: 0,
    }
}

/// Keeps all other fields byte for byte, so that the owner can fix the task and submit it
/// again.
fn failed(mut stored: BTreeMap<String, Box<RawValue>>, reason: &str, at: Timestamp) -> String {
    let at = iso(at);
    let ended = [("status", "failed"), ("error", reason), ("completed_at", at.as_str())];
    for (name, value) in ended {
        stored.insert(name.to_owned(), raw(&value));
    }
    serde_json::to_string(&stored).expect("raw JSON serializes to JSON")
}

/// Replaces data that was no JSON object. Legacy programs require a type and a source.
fn whole(id: &str, reason: &str, at: Timestamp) -> String {
    let task = json!({
        "task_id": id,
        "type": "investigate",
        "priority": "P2",
        "source": "system",
        "status": "failed",
        "payload": {},
        "trace_id": id,
        "sla": null,
        "assigned_to": null,
        "created_at": iso(at),
        "started_at": null,
        "completed_at": iso(at),
        "parent_task_id": null,
        "child_task_ids": [],
        "metadata": {},
        "error": reason,
        "retry_count": 0,
        "max_retries": 0,
    });
    task.to_string()
}
