//! The command line against scripted servers: what it asks, what it shows, how it ends.
//!
//! How to add a case: script a `Peer` with the answers in order, `run` a command line, look
//! at the requests and at what was printed. What needs a real process stands in `process`.

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
