//! Router and recorder behind the loop that handles Lambda's stream batches. The replay does
//! what a DynamoDB stream may do and the emulator never does: it repeats records, mixes keys,
//! carries unreadable records, loses records, and ends a function between any two of its calls.
//!
//! - `shard`: a shard with Lambda's rules for continuing after an answer, an error or a crash.
//! - `record`: an item as a record of the stream.
//! - `calls`: ports that count their calls, and end the function at one of them.
//! - `parked`: one tenant with a fault, and the others.
//! - `sharded`: one tenant's changes in several shards, with a router and a recorder each.
//! - `story`: what a single stream may do to router and recorder.
//! - `world`: tasks with a history, and what must hold after a replay.

mod calls;
mod parked;
mod record;
mod shard;
mod sharded;
mod story;
mod world;
