//! The function handlers over the AWS adapters, in one process with their tests, against an
//! emulator of AWS's wire protocol behind our own proxy.
//!
//! - `faults`: one call in five fails, functions end in the middle, and every accepted task
//!   still ends once.
//! - `shards`: a stream of several shards, with one recorder each for one ledger.
//! - `budget`: many reservations under one cap, many completions of one agent.
//! - `cost`: what one task is billed for, counted and priced. `hot_partitions`: its load on each
//!   partition, at rates that no emulator can show.
//! - `emulator`: the stack, and Lambda's side of the stream and the queues. `proxy`: records
//!   calls and makes some fail; `trouble`: the kinds of failure. `lambda`: delivers batches.
//!   `world`: the handlers, wired as in their mains. `peer`: agents to run. `count`: tasks taken
//!   through all functions; `cost_model`: the units of a call.

mod budget;
mod cost;
mod cost_model;
mod count;
mod emulator;
mod faults;
mod hot_partitions;
mod lambda;
mod peer;
mod proxy;
mod shards;
mod trouble;
mod world;
