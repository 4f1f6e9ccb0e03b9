//! The ports on files of this machine: the store in SQLite, its change feed, blobs in a folder.
//!
//! How to add an adapter: a module named after its technology, the port's conformance suite
//! from `testkit` over it in `tests/`, and its wiring in `shared/hosts/local`.

pub mod backup;
pub mod blobs;
pub mod private;
pub mod sqlite;

pub use private::private_folder;
