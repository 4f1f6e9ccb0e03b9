//! The ports on local files: the store in SQLite, its change feed, and blobs in a folder.
//!
//! To add an adapter: a module named after its technology, the port's conformance suite from
//! `testkit` in `tests/`, and its wiring in `shared/hosts/local`.

pub mod backup;
pub mod blobs;
pub mod private;
pub mod sqlite;

pub use private::private_folder;
