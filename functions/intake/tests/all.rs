//! Test root: how intake creates tasks from events.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod aws_events;
mod envelope;
mod folding;
mod races;
