//! The whole bundle in one process: the functions over what this machine has.
//!
//! - `bundle`: the functions wired together, their timers and readers.
//! - `lanes`, `bus`, `wake`: what on AWS a service of its own does, in memory.
//! - `serve`: configuration, log, HTTP server. `bridge`: the same for a Redis beside it.
//! - `tasks`: what works in the background, and who learns of its end.
//!
//! How to add a setting: a key in `serve/file.rs`, its use in `serve/config.rs`, its lines in
//! `watchbill.example.yaml` and in README's table. How to add a function: its place in `bundle`.

pub mod bridge;
pub mod bundle;
pub mod bus;
pub mod lanes;
pub mod serve;
mod tasks;
pub mod wake;
