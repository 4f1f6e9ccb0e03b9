//! The service over a store in memory, with calls that meet in many orders.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod common;
mod service_parts;
