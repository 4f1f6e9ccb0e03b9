//! What becomes of a task or a domain's message that can't be taken over: it fails, in every form in which
//! somebody waits for it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use watchbill_domain::{EventId, EventType, Timestamp, derived_uuid};
use watchbill_redact as redact;
use watchbill_wire::peer::{PeerEvent, id_of_peer};
use watchbill_wire::{PublishEvent, is_trace};

use super::event::{FROM, US};
use super::task::raw;
use super::{RELAYED_BY, iso};

const FAILED: &str = "task.failed";
/// Characters of a reason.
const REASON: usize = 500;

/// What becomes of a task of the queue that can't be taken over: whoever waits for it sees it
/// fail, by its hash or by its event.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// The task as it stands there from then on.
    pub data: String,
    /// The event for the channels.
    pub event: String,
    /// The same event for the bundle. Its id is made of what stood there: the same task is
    /// rejected once.
    pub record: PeerEvent,
}

impl Rejection {
    /// `data`: what stood there, where it was a text.
    pub fn new(id: &str, data: Option<&str>, reason: &str, at: Timestamp) -> Self {
        let reason = redact::shortened(reason, REASON);
        let there = data.and_then(|data| serde_json::from_str(data).ok());
        let there: Option<BTreeMap<String, Box<RawValue>>> = there;
        let text = |name: &str| -> Option<String> {
            let text: String = serde_json::from_str(there.as_ref()?.get(name)?.get()).ok()?;
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
        let data = match there {
            Some(there) => failed(there, &reason, at),
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
) -> PeerEvent {
    let task_id = id_of_peer(id).ok();
    if task_id.is_none() {
        payload.insert("peer_id".to_owned(), redact::shortened(id, 200).into());
    }
    PeerEvent {
        id: EventId::parse(&format!("{FROM}{event_id}")).expect("a prefix and a UUID are an id"),
        event: PublishEvent {
            event_type: EventType::parse(FAILED).expect("it is a noun and a verb"),
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

/// All else stays byte for byte: its owner may mend it and hand it in again.
fn failed(mut there: BTreeMap<String, Box<RawValue>>, reason: &str, at: Timestamp) -> String {
    let at = iso(at);
    let ended = [("status", "failed"), ("error", reason), ("completed_at", at.as_str())];
    for (name, value) in ended {
        there.insert(name.to_owned(), raw(&value));
    }
    serde_json::to_string(&there).expect("raw JSON can be written")
}

/// In place of what was no JSON object. Its programs know no task without a type and a source.
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
