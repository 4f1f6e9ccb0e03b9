//! Tests of the connection between Lambda and the handlers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod feed;
mod lane;
mod refused;
