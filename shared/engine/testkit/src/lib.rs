//! Support for tests: implementations of the ports in memory, clocks and randomness that a test
//! controls, a plain task to start from, and a conformance suite for each port.
//!
//! How to add a port: add its implementation in memory as a module here, its guarantees as a
//! suite, and a test that runs the suite over each implementation. How to add a guarantee to a
//! suite: add a function and list its name in the suite's macro. Every adapter that runs the
//! suite must then satisfy it.

pub mod blobs_suite;
mod builders;
mod fake_clock;
mod fake_entropy;
mod faulty_store;
mod flaky_store;
pub mod governance_suite;
mod hostile;
mod machine;
mod memory_blobs;
mod memory_store;
mod peers;
mod planted;
mod ports;
mod redis_server;
mod scripted_store;
mod store_loop;
pub mod store_suite;
mod tools;

pub use builders::{a_completion, a_task, an_event, ports_over, ungated_core};
pub use fake_clock::FakeClock;
pub use fake_entropy::SeededEntropy;
pub use faulty_store::{Failure, FaultyStore};
pub use flaky_store::FlakyStore;
pub use hostile::{Hostile, hostile};
pub use machine::{Machine, assert_nothing_due, machine_rules, tenant, whats};
pub use memory_blobs::MemoryBlobs;
pub use memory_store::{MemoryFeed, MemoryStore};
pub use peers::{MemoryBus, MemoryLanes, MemoryWake};
pub use planted::{Planted, PlantedParts, planted};
pub use ports::free_port;
pub use redis_server::{RedisServer, RedisSetup};
pub use scripted_store::{ReadFault, ScriptedStore};
pub use store_loop::{LoopReport, store_loop};
pub use tools::{KnownTools, ToolOfType};
