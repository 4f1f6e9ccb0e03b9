//! Forms that outsiders read, and their frozen files.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod fixtures;
mod forms;
mod unknown_fields;
