//! The functions' handlers over the AWS adapters, in one process with their tests, against an
//! emulator that speaks AWS's own wire protocol, with a proxy of our own before it.
//!
//! - `faults`: one call in five goes wrong, functions end in the middle, and every task that
//!   was accepted still ends once.
//! - `shards`: a stream of several shards, with a recorder each at one ledger.
//! - `budget`: many reservations under one cap, many completions of one agent.
//! - `cost`: what one task is billed for, counted and priced. `heat`: what it loads each
//!   partition with, at rates that no emulator can show.
//! - `emulator`: the stack, and Lambda's side of the stream and the queues. `proxy`: calls
//!   written down and let go wrong; `trouble`: how. `lambda`: batches handed over. `world`:
//!   the handlers, wired as their mains do it. `peer`: agents to run. `count`:
//!   tasks taken through all of them; `bill`: the units of a call.

mod bill;
mod budget;
mod cost;
mod count;
mod emulator;
mod faults;
mod heat;
mod lambda;
mod peer;
mod proxy;
mod shards;
mod trouble;
mod world;
