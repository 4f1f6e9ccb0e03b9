//! Events: their types, priorities and contents.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{EventId, Priority, TaskId, TenantId, Timestamp, UnknownName};

/// Only Watchbill publishes types of these groups; callers can't.
pub const RESERVED_EVENT_GROUPS: &[&str] =
    &["approval", "budget", "reputation", "permission", "circuit", "ops_cycle", "audit"];

/// `noun.verb`: lower-case words of letters, digits and `_`, one dot, at most 64 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct EventType(Cow<'static, str>);

/// The types that every task produces. They are parsed so often that they are not copied.
const COMMON: &[&str] = &["task.created", "task.started", "task.completed", "task.assigned"];

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = EventType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event type of the form noun.verb")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EventType, E> {
                EventType::parse(text).map_err(E::custom)
            }
        }

        from.deserialize_str(Text)
    }
}

impl EventType {
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_lowercase())
                && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if let Some(common) = COMMON.iter().find(|common| **common == text) {
            return Ok(Self(Cow::Borrowed(common)));
        }
        match text.split_once('.') {
            Some((noun, verb)) if text.len() <= 64 && word(noun) && word(verb) => {
                Ok(Self(Cow::Owned(text.to_owned())))
            }
            _ => Err(UnknownName {
                what: "event_type",
                value: watchbill_redact::shortened(text, 64),
                known: "the form noun.verb in lower case, such as deploy.started".to_owned(),
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn group(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    pub fn is_reserved(&self) -> bool {
        RESERVED_EVENT_GROUPS.contains(&self.group())
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventPriority {
    Critical,
    High,
    Medium,
    Low,
}

impl EventPriority {
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        Ok(Priority::parse(text)
            .map_err(|e| UnknownName { known: "critical, high, medium, low".to_owned(), ..e })?
            .into())
    }
}

impl From<Priority> for EventPriority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::P0 => EventPriority::Critical,
            Priority::P1 => EventPriority::High,
            Priority::P2 => EventPriority::Medium,
            Priority::P3 => EventPriority::Low,
        }
    }
}

/// A published event. Its id is derived from the item and its version, so that a repeat is
/// recognisable. An event never changes state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub event_id: EventId,
    pub event_type: EventType,
    pub priority: EventPriority,
    pub source_agent: String,
    pub trace_id: String,
    pub task_id: Option<TaskId>,
    pub payload: Map<String, Value>,
    pub timestamp: Timestamp,
    pub metadata: Map<String, Value>,
    /// How many reactions led to this event; beyond 8 no further reaction is started.
    #[serde(default)]
    pub hops: u8,
}

/// An event that a caller published, stored as an item until it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedEvent {
    pub tenant: TenantId,
    pub event: Event,
    /// When the item may be deleted. It is in the ledger long before.
    pub expires: Timestamp,
}
