//! Tests of the external wire formats and their frozen fixtures.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod fixtures;
mod forms;
mod unknown_fields;
