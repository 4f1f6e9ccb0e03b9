//! The Redis bridge on this machine: beside a server that is reached over HTTP
//! (`watchbill bridge`), or in the server's own process (`watchbill serve --redis`).
//!
//! - `config`: where the Redis is and which directions are on, as people write it.
//! - `http_home`: our side over HTTP.
//! - `running`: the bridge at work, its end, and a line on its figures now and then.

pub mod config;
mod http_home;
mod running;

pub use http_home::HttpHome;
pub use running::{Running, sides};
