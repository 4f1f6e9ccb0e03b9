//! External wire formats: HTTP bodies, lane messages, events on a bus. No other crate of the
//! workspace serialises for external readers.
//!
//! - `form`: how a body or a query is read. A form is a table of fields ([`Field`]); the table
//!   both drives the reader and becomes the schema in the OpenAPI document, so the two can't
//!   disagree.
//! - `exact`: which numbers keep their value when they are read.
//! - `requests`: the bodies clients send, as tables and typed values.
//! - `task`, `event`, `approval`, `governance`, `audit`, `answers`: what clients receive, made
//!   `From` the domain.
//! - `settings`: the configuration of an installation as people write it.
//! - `link`: signed links by which a person decides from a notification.
//! - `legacy`: the port to legacy programs that keep their tasks in a server of their own. It is
//!   in this crate because its values are these formats.
//! - `lane`, `bus`, `notice`: messages between functions, with a version tag. `portable`: text
//!   in a form that every transport accepts.
//!
//! How to add a request: a struct and its `FIELDS` in `requests`, and a `read` that takes every
//! field from the form. How to add a field to a response: in the view and its `From`; clients
//! must be able to ignore it. If clients send the object back, as they may a task, also a line
//! `shown(…)` in the request's `FIELDS`, or the new field would be refused as unknown. How to change
//! a message: add a new version next to the old one (`LaneV1`, `LaneV2`), because functions of two
//! builds read the same queue; the files in `tests/fixtures` are frozen and stay readable for ever.

mod answers;
mod approval;
mod audit;
mod bus;
mod event;
mod exact;
pub mod form;
mod governance;
mod lane;
pub mod legacy;
mod link;
mod notice;
mod operator;
mod portable;
mod problem;
mod render;
mod requests;
pub mod rfc3339;
mod schemas;
pub mod settings;
mod task;

pub use answers::*;
pub use approval::{ApprovalView, VoteView};
pub use audit::{AuditList, AuditView, BatchList, BatchView, PlaceView};
pub use bus::{BusEvent, BusEventError, SOURCE_PREFIX, tenant_of_resources, tenant_resource};
pub use event::{EventFormError, EventView};
pub use exact::{InexactNumber, check_numbers, with_exact_numbers};
pub use form::{BadForm, Field, FieldError, FieldType, Form};
pub use governance::*;
pub use lane::{LaneForm, LaneFormError};
pub use link::{ApprovalLink, LinkError, LinkKey};
pub use notice::{NoticeForm, NoticeFormError, tell_approval, webhook_body};
pub use operator::operator_key;
pub use portable::{is_portable, portable_json};
pub use problem::Problem;
pub use render::render_approval;
pub use requests::*;
pub use task::{SlaView, TaskView};
