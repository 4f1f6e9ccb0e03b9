//! The things Watchbill talks about.

mod approval;
mod auth;
mod body;
mod escape;
mod event;
mod ids;
mod names;
mod outcome;
mod person;
mod sla;
mod task;
mod time;

pub use approval::{Approval, ApprovalStatus, Decision, Vote};
pub use auth::{ApiKey, Caller, Role, hash_key};
pub use body::Body;
pub use escape::{escape_id, refused_in_ids};
pub use event::{Event, EventPriority, EventType, PublishedEvent, RESERVED_EVENT_GROUPS};
pub use ids::{
    ApprovalId, EventId, IdError, TaskId, TenantId, derived_uuid, escape_key_part, timed_uuid,
};
pub(crate) use names::names;
pub use names::{Agent, Priority, Status, TaskType, UnknownName};
pub use outcome::Outcome;
pub use person::{
    MAX_REQUESTERS, Person, add_requester, folded_name, is_reserved_name, reserved_pattern,
};
pub use sla::Sla;
pub(crate) use task::hex;
pub use task::{
    ApprovalRef, Grant, Held, Lease, LogEntry, LoggedEvent, Note, Override, Question, Task,
    TaskLimits, What,
};
pub use time::{MOST_SPAN, Timestamp, TimestampError, parse_span};
