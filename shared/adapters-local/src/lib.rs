//! The ports on one machine, without any service beside it: the SQLite store, lanes and
//! timers in memory, log files.
//!
//! How to add an adapter: a module named after its technology, the port's conformance suite
//! from `testkit` over it in `tests/`, and its wiring in `shared/local`.

pub mod blobs;
pub mod bus;
pub mod lanes;
pub mod log_files;
pub mod sqlite;
pub mod wake;

use std::fs::DirBuilder;
use std::io;
use std::path::Path;

/// Makes a folder, with those above it, for its owner alone; one that is there stays as it is.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
