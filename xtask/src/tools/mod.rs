//! The tools that a stage needs besides the toolchain: installed if possible, else named.

pub mod apt;
pub mod fixture;
pub mod proc;
pub mod rustup;
pub mod venv;

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where `program` is on the PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| {
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}
