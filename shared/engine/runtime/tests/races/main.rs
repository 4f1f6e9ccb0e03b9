//! Runs and effects under every race that needs no peer outside.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod executor;
mod journal;
mod spending;
mod steps;
