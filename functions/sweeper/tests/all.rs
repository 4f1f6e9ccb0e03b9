//! Test root: due items and the sweeper's races.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod races;
mod watch;
