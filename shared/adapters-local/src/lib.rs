//! The ports on one machine, without any service beside it: the SQLite store, lanes and
//! timers in memory, log files.
//!
//! How to add an adapter: a module named after its technology, the port's conformance suite
//! from `testkit` over it in `tests/`, and its wiring in `shared/local`.

pub mod backup;
pub mod blobs;
pub mod bus;
pub mod lanes;
pub mod log_files;
pub mod private;
pub mod sqlite;
pub mod wake;

pub use private::private_folder;
