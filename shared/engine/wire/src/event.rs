//! The wire format of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{Event, EventId, EventPriority, EventType, TaskId, Timestamp};

use crate::{rfc3339, schemas};

/// The metadata field that carries the event's hop count through reactions to external
/// consumers.
const HOPS: &str = "hops";

/// An event as clients and consumers of the bus see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventView {
    /// The same for every delivery of the same event.
    #[schemars(schema_with = "schemas::id")]
    pub event_id: EventId,
    #[schemars(schema_with = "schemas::id")]
    pub event_type: EventType,
    #[schemars(schema_with = "schemas::event_priority")]
    pub priority: EventPriority,
    pub source_agent: String,
    pub trace_id: String,
    #[schemars(schema_with = "schemas::optional_id")]
    pub task_id: Option<TaskId>,
    pub payload: Map<String, Value>,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub timestamp: Timestamp,
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let mut metadata = event.metadata;
        if event.hops > 0 {
            metadata.insert(HOPS.into(), event.hops.into());
        }
        Self {
            event_id: event.event_id,
            event_type: event.event_type,
            priority: event.priority,
            source_agent: event.source_agent,
            trace_id: event.trace_id,
            task_id: event.task_id,
            payload: event.payload,
            timestamp: event.timestamp,
            metadata,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("event {event_id} has metadata.hops {hops}: a whole number up to 255 was expected")]
pub struct EventFormError {
    event_id: EventId,
    hops: Value,
}

impl TryFrom<EventView> for Event {
    type Error = EventFormError;

    fn try_from(view: EventView) -> Result<Self, Self::Error> {
        let mut metadata = view.metadata;
        // A bad count is refused, not read as zero: the count is what ends a loop of reactions.
        let hops = match metadata.remove(HOPS) {
            None => 0,
            Some(hops) => match hops.as_u64().and_then(|n| u8::try_from(n).ok()) {
                Some(n) => n,
                None => return Err(EventFormError { event_id: view.event_id, hops }),
            },
        };
        Ok(Event {
            event_id: view.event_id,
            event_type: view.event_type,
            priority: view.priority,
            source_agent: view.source_agent,
            trace_id: view.trace_id,
            task_id: view.task_id,
            payload: view.payload,
            timestamp: view.timestamp,
            metadata,
            hops,
        })
    }
}
