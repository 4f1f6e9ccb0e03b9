//! The request that publishes an event.

use serde_json::{Map, Value};
use watchbill_core::service::NewEvent;
use watchbill_domain::{Caller, EventId, EventPriority, EventType, TaskId};

use super::{ANY_ID, line, shown};
use crate::form::{BadForm, Field, FieldType, Form};

/// Bytes of JSON: 100 KB.
pub const EVENT_PAYLOAD_LIMIT: usize = 100 * 1024;

const PRIORITIES: &[&str] = &["critical", "high", "medium", "low", "P0", "P1", "P2", "P3"];

/// The body of `POST /events/publish`.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishEvent {
    pub event_type: EventType,
    pub source_agent: String,
    pub payload: Map<String, Value>,
    pub task_id: Option<TaskId>,
    pub trace_id: Option<String>,
    pub priority: Option<String>,
}

/// Where a published event comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The same for every delivery of the same event. A new id is made if there is none.
    pub event_id: Option<EventId>,
    /// How many reactions led to the event.
    pub hops: u8,
}

impl PublishEvent {
    pub const FIELDS: &[Field] = &[
        Field::required(
            "event_type",
            FieldType::Word {
                pattern: "^[a-z][a-z0-9_]*\\.[a-z][a-z0-9_]*$",
                most: 64,
                fits: |text| EventType::parse(text).is_ok(),
                like: "the form noun.verb in lower case, such as deploy.started",
            },
            "What happened, as noun.verb. Types that only Watchbill publishes (approval, budget, \
             reputation, permission, circuit, ops_cycle, audit) are refused with 403.",
        ),
        Field::required("source_agent", line(64), "Who publishes it."),
        Field::required(
            "payload",
            FieldType::Object { most: EVENT_PAYLOAD_LIMIT },
            "The event's data, at most 100 KB.",
        ),
        Field::optional("task_id", ANY_ID, "The task it is about."),
        Field::optional("trace_id", ANY_ID, "Its trace id; default: the one of `traceparent`."),
        Field::optional("priority", FieldType::Choice(PRIORITIES), "Default `medium`."),
        Field::optional(
            "event_id",
            ANY_ID,
            "The event's existing id, if it comes from another system: a repeat is the same event.",
        ),
        Field::optional(
            "hops",
            FieldType::Int { least: 0, most: u8::MAX as u64 },
            "How many reactions led to it; more than 8 are refused with 409.",
        ),
        shown("timestamp"),
        shown("metadata"),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        Self::of(Form::from_json(Self::FIELDS, body)?)
    }

    /// The same with where it comes from.
    pub fn read_with_origin(body: &[u8]) -> Result<(Self, Origin), BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let origin = Origin {
            event_id: form.parsed("event_id", EventId::parse_new),
            hops: form.int("hops").map_or(0, |hops| hops as u8),
        };
        Self::of(form).map(|event| (event, origin))
    }

    fn of(mut form: Form) -> Result<Self, BadForm> {
        let event_type = form.choice("event_type", EventType::parse);
        let source_agent = form.text("source_agent");
        let payload = form.object("payload");
        let task_id = form.parsed("task_id", TaskId::parse);
        let trace_id = form.text("trace_id");
        let priority =
            form.choice("priority", |text| EventPriority::parse(text).map(|_| text.to_owned()));
        form.done()?;
        let (Some(event_type), Some(source_agent), Some(payload)) =
            (event_type, source_agent, payload)
        else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self { event_type, source_agent, payload, task_id, trace_id, priority })
    }

    pub fn into_new_event(
        self,
        caller: &Caller,
        trace_id: Option<String>,
        origin: Origin,
    ) -> NewEvent {
        NewEvent {
            tenant: caller.tenant.clone(),
            event_type: self.event_type.as_str().to_owned(),
            source_agent: self.source_agent,
            payload: self.payload,
            task_id: self.task_id,
            trace_id: self.trace_id.or(trace_id),
            priority: self.priority,
            published_by: caller.name.clone(),
            event_id: origin.event_id.map(|id| id.to_string()),
            hops: origin.hops,
        }
    }
}
