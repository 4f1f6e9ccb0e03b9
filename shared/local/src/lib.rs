//! `watchbill`: the whole bundle in one process, and the command line that talks to it or
//! to a deployed one.
//!
//! - `cli`: the command line; a client of the HTTP API like any other.
//! - `serve`: the functions of the bundle wired into one process.
//! - `tasks`: what works in the background, and who learns of its end.
//!
//! How to add a command: a variant in `cli::args::Command`, its arm in `cli::dispatch`, a
//! case in `tests/cli`.

pub mod bridge;
pub mod bundle;
pub mod cli;
pub mod serve;
mod tasks;
