//! The whole bundle in one process: the functions over this machine's resources.
//!
//! - `bundle`: the functions wired together, their timers and readers.
//! - `lanes`, `bus`, `wake`: in-memory replacements of AWS services.
//! - `serve`: configuration, log, HTTP server. `bridge`: the bridge to a Redis.
//! - `tasks`: background tasks, and how their failure is reported.
//!
//! To add a setting: a key in `serve/file.rs`, its use in `serve/config.rs`, its lines in
//! `watchbill.example.yaml` and the README's table. To add a function: its place in `bundle`.

pub mod bridge;
pub mod bundle;
pub mod bus;
pub mod lanes;
pub mod serve;
mod tasks;
pub mod wake;
