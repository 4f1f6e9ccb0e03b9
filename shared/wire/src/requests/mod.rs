//! What clients send.

mod admin;
mod audit;
mod events;
mod queries;
mod tasks;

pub use admin::{CreateKey, CreateTenant, TokenRequest};
pub use audit::{AuditQuery, BatchQuery};
pub use events::{EVENT_PAYLOAD_LIMIT, PublishEvent};
pub use queries::{EventQuery, PageQuery, TaskQuery, WatchQuery};
pub use tasks::{Answer, CreateTask, METADATA_LIMIT, PatchStatus, Reason};

use crate::Kind;

/// A name or foreign id on one line.
const fn line(most: usize) -> Kind {
    Kind::Text { most, lines: false }
}

/// What people and programs write at length.
const fn prose(most: usize) -> Kind {
    Kind::Text { most, lines: true }
}

const ID: Kind = line(128);
