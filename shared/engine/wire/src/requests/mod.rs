//! Request bodies and queries.

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
pub use tasks::{AnswerRequest, CreateTask, METADATA_LIMIT, PatchStatus, Reason, is_trace};

use watchbill_domain::ApprovalId;

use crate::{Field, FieldType};

/// A field that only responses carry; see [`FieldType::ResponseOnly`].
const fn shown(name: &'static str) -> Field {
    Field::optional(name, FieldType::ResponseOnly, "Only in responses; ignored in requests.")
}

/// A name or external id on one line.
const fn line(most: usize) -> FieldType {
    FieldType::Text { most, lines: false }
}

/// Long text of people and programs.
const fn prose(most: usize) -> FieldType {
    FieldType::Text { most, lines: true }
}

/// Long text that must not be blank.
const fn words(most: usize, like: &'static str) -> FieldType {
    FieldType::Word {
        pattern: "[^\\s\\u0000-\\u001f\\u007f-\\u009f]",
        most,
        fits: says_something,
        like,
    }
}

fn says_something(text: &str) -> bool {
    text.chars().any(|c| !c.is_whitespace() && !c.is_control())
}

/// 128 characters, each of which may be escaped (`=2F`), as legacy ids are.
pub const ANY_ID: FieldType = FieldType::Word {
    pattern: "^(=(23|25|2F|3D|3F|7E)|[^\\u0000-\\u001f\\u007f-\\u009f]){1,128}$",
    most: 384,
    fits: |text| !text.is_empty() && !text.contains(char::is_control),
    like: "a string of 1 to 128 characters without control characters",
};

/// `approval_`, a task's id, and `~` with a number: 160 characters, each of which may be
/// escaped as in [`ANY_ID`].
pub const APPROVAL_ID: FieldType = FieldType::Word {
    pattern: "^(=(23|25|2F|3D|3F|7E)|[^\\u0000-\\u001f\\u007f-\\u009f]){1,160}$",
    most: 416,
    fits: |text| ApprovalId::parse(text).is_ok(),
    like: "a string of 1 to 160 characters without control characters",
};
