//! Tests of the bundle in one process.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod connections;
mod priority;
