//! The forms that outsiders read and write: HTTP bodies, lane messages, events on a bus.
//! Nothing else in the workspace serialises for outsiders.
//!
//! - `form`: how a body or a query is read. A form is a table of fields ([`Field`]); the
//!   table both drives the reader and becomes the schema in the OpenAPI document, so the two
//!   can't disagree.
//! - `exact`: which numbers are kept as they are written.
//! - `requests`: the bodies clients send, as tables and typed values.
//! - `task`, `event`, `approval`, `governance`, `audit`, `answers`: what clients get, made `From` the domain.
//! - `settings`: the rules of an installation as people write them.
//! - `link`: signed links by which a person decides from a notification.
//! - `peer`: the port to programs that keep their tasks in a server of their own. It stands here because
//!   its values are these forms.
//! - `lane`, `bus`, `notice`: what travels between functions, with a version tag. `portable`: in a form
//!   that every carrier takes.
//!
//! How to add a request: a struct and its `FIELDS` in `requests`, a `read` that takes every
//! field from the form. How to add a field to an answer: in the view and its `From`; clients
//! must be able to ignore it. How to change a message: a new version beside the old one; the
//! files in `tests/fixtures` are frozen and stay readable for ever.

mod answers;
mod approval;
mod audit;
mod bus;
mod event;
mod exact;
pub mod form;
mod governance;
mod lane;
mod link;
mod notice;
mod operator;
pub mod peer;
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
pub use form::{BadForm, Field, FieldError, Form, Kind};
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
