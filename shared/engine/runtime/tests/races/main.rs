//! Runs and effects under every race that needs no external service.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod effects;
mod executor;
mod journal;
mod spending;
