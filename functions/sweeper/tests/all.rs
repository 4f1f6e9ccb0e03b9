//! The sweep: what is due, and its races.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod races;
mod watch;
