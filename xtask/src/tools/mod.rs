//! What a stage needs beside the toolchain: installed where we may, else named.

pub mod apt;
pub mod bed;
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
