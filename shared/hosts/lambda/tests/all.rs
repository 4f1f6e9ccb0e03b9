//! What stands between Lambda and our handlers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod feed;
mod lane;
mod refused;
