//! Tests the command line against scripted servers: its requests, its output, its exit codes.
//!
//! To add a case: script a `Peer` with responses, `run` a command line, check the requests and
//! the output. `process` has the tests that need a real process.

mod audit;
mod codes;
mod governance;
mod lists;
mod peer;
mod policy;
mod process;
mod submit;
mod wait;
mod watch;
mod world;
