//! The domain types of Watchbill, which exclude invalid values.
//!
//! - `ids`, `names`, `person`, `time`, `escape`: identifiers, names and times.
//! - `task`, `approval`, `auth`, `event`, `body`, `outcome`, `sla`: stored data. `task_entry`:
//!   one change of a task.
//! - `agents`: the table of agents.
//! - `money`, `reputation`: amounts and points. `tool_call`, `arguments`: tool calls, and how
//!   their arguments are read. `time_range`: `1h`, `yesterday`, two times.
//! - `canonical`: canonical JSON text and its hash. `switch`: `on` and `off`.
//!
//! To add a word that is stored or sent: use [`names!`], which fixes its spelling. To add a
//! field to stored data: give it a default for what older builds wrote, and add a frozen
//! fixture.

mod agents;
mod approval;
mod arguments;
mod auth;
mod body;
mod canonical;
mod escape;
mod event;
mod ids;
mod money;
#[macro_use]
mod names;
mod outcome;
mod person;
mod reputation;
mod sla;
mod switch;
mod task;
mod task_entry;
mod time;
mod time_range;
mod tool_call;

pub use agents::{AGENTS, AgentInfo, LaneLayout, names_repository};
pub use approval::{Approval, ApprovalStatus, Decision, Vote};
pub use arguments::{Fields, Refusal};
pub use auth::{ApiKey, Caller, Role, hash_key};
pub use body::Body;
pub use canonical::canonical_hash;
pub use escape::{escape_id, refused_in_ids};
pub use event::{Event, EventPriority, EventType, PublishedEvent, RESERVED_EVENT_GROUPS};
pub use ids::{
    ApprovalId, EventId, IdError, TaskId, TenantId, derived_uuid, escape_key_part, timed_uuid,
};
pub use money::{Amount, Price, Reservation, Resource, Usage};
#[doc(hidden)]
pub use names::shortened_word;
pub use names::{Agent, Priority, Status, TaskType, UnknownName};
pub use outcome::Outcome;
pub use person::{
    MAX_REQUESTERS, Person, add_requester, folded_name, is_reserved_name, reserved_pattern,
};
pub use reputation::{ReputationEvent, ScoreDelta};
pub use sla::Sla;
pub use switch::Switch;
pub use task::{
    ApprovalRef, ChangeKind, DeferReason, Grant, Lease, LogEntry, LoggedEvent, Note, Override,
    Question, Task, TaskLimits, hex,
};
pub use task_entry::TaskEntry;
pub use time::{MAX_SPAN, Timestamp, TimestampError, parse_span};
pub use time_range::{TimeRange, TimeRangeError, words};
pub use tool_call::ToolCall;
