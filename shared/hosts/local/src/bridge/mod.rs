//! The Redis bridge on this machine: next to a server that it reaches over HTTP (`watchbill
//! bridge`), or in the server's process (`watchbill serve --redis`).
//!
//! - `config`: the Redis and the active directions, as the user sets them.
//! - `running`: the running bridge, its stop, and its metrics in the log.

pub mod config;
mod running;

pub use running::{RunningBridge, local_context};
