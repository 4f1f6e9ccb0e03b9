//! The Redis bridge on this machine: beside a server that is reached over HTTP
//! (`watchbill bridge`), or in the server's own process (`watchbill serve --redis`).
//!
//! - `config`: where the Redis is and which directions are on, as people write it.
//! - `running`: the bridge at work, its end, and a line on its figures now and then.

pub mod config;
mod running;

pub use running::{Running, sides};
