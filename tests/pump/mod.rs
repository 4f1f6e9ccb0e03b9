//! Router and recorder behind the loop that Lambda hands stream batches to, driven by a pump
//! that does what a DynamoDB stream may do and the emulator never does: it repeats itself,
//! mixes keys, carries what nobody can read, loses records, and ends a function between any
//! two of its calls.
//!
//! - `shard`: a shard with Lambda's rules for going on after an answer, an error or a crash.
//! - `record`: an item as a record of the stream.
//! - `calls`: ports that count their calls, and end the function at one of them.
//! - `parked`: one tenant at fault, and the others.
//! - `sharded`: one tenant's changes in several shards, with a router and a recorder each.
//! - `world`: tasks with a history, and what must hold after it was pumped.

mod calls;
mod parked;
mod record;
mod shard;
mod sharded;
mod story;
mod world;
