//! What clients send.

mod admin;
mod audit;
mod events;
mod governance;
mod links;
mod queries;
mod tasks;

pub use admin::{CreateKey, CreateTenant, KeyQuery, TokenRequest};
pub use audit::{AuditQuery, BatchQuery};
pub use events::{EVENT_PAYLOAD_LIMIT, Origin, PublishEvent};
pub use governance::{OverrideFreeze, SetLimits};
pub use links::{LinkChoice, LinkForm};
pub use queries::{EventQuery, PageQuery, TaskQuery, TimelineQuery, WatchQuery};
pub use tasks::{Answer, CreateTask, METADATA_LIMIT, PatchStatus, Reason, is_trace};

use watchbill_domain::ApprovalId;

use crate::{Field, Kind};

/// A field of the form in which the thing is shown; see [`Kind::Shown`].
const fn shown(name: &'static str) -> Field {
    Field::maybe(name, Kind::Shown, "As it is shown: passed over here.")
}

/// A name or foreign id on one line.
const fn line(most: usize) -> Kind {
    Kind::Text { most, lines: false }
}

/// What people and programs write at length.
const fn prose(most: usize) -> Kind {
    Kind::Text { most, lines: true }
}

/// The same where something has to be said.
const fn words(most: usize, like: &'static str) -> Kind {
    Kind::Word { pattern: "[^\\s\\u0000-\\u001f\\u007f-\\u009f]", most, fits: says_something, like }
}

fn says_something(text: &str) -> bool {
    text.chars().any(|c| !c.is_whitespace() && !c.is_control())
}

/// 128 characters, of which each may be escaped, as ids of peers are (`=2F`).
pub const ANY_ID: Kind = Kind::Word {
    pattern: "^(=(23|25|2F|3D|3F|7E)|[^\\u0000-\\u001f\\u007f-\\u009f]){1,128}$",
    most: 384,
    fits: |text| !text.is_empty() && !text.contains(char::is_control),
    like: "a text of 1 to 128 characters without control characters",
};

/// `approval_`, a task's id, and `~` with a number: 160 characters, escaped as those of [`ANY_ID`].
pub const APPROVAL_ID: Kind = Kind::Word {
    pattern: "^(=(23|25|2F|3D|3F|7E)|[^\\u0000-\\u001f\\u007f-\\u009f]){1,160}$",
    most: 416,
    fits: |text| ApprovalId::parse(text).is_ok(),
    like: "a text of 1 to 160 characters without control characters",
};
