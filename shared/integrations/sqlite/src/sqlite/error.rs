//! Errors of opening and copying the store, and SQLite's errors in words for the operator.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the store could not be opened or copied, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data folder {folder} is in use by another watchbill process: stop that one, or \
         choose another folder with --data"
    )]
    Locked { folder: PathBuf },
    #[error(
        "{path} is missing or empty, but its folder is not new: it contains {traces}. Restore the \
         database (a copy in that folder, or the last backup) under that name and start again; \
         to start with an empty database, move the whole folder away first"
    )]
    Lost { path: PathBuf, traces: String },
    #[error(
        "{path} is older than at the last run: it has changes up to number {found}, but {marked} \
         were committed. Its write-ahead log was removed, or the file was replaced. Restore the \
         newer database (a file watchbill.rescued-… in that folder is the newest); to continue \
         with the older one, remove {lock} and start again"
    )]
    Older { path: PathBuf, lock: PathBuf, found: u64, marked: u64 },
    #[error("can't use {folder}: check that it is a folder you may write to")]
    Folder { folder: PathBuf, source: io::Error },
    #[error(
        "{path} has version {found}, this build supports up to {known}: start the newer build that \
         wrote it, or restore the copy made before its migration"
    )]
    Newer { path: PathBuf, found: i32, known: usize },
    #[error(
        "{path} is not a watchbill database: choose another folder with --data, or move it away"
    )]
    Foreign { path: PathBuf },
    #[error("{path} is damaged: restore the last backup")]
    Damaged { path: PathBuf, source: rusqlite::Error },
    #[error("the disk is full: can't {doing} {path}; free some space and start again")]
    Full { doing: &'static str, path: PathBuf },
    #[error("can't {doing} {path}")]
    Sqlite { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "{path} can't use a write-ahead log (its journal mode is '{mode}'): the data folder must \
         be on a local disk, not on a network drive"
    )]
    NoWal { path: PathBuf, mode: String },
    #[error("{path} already exists: move it away or choose another name")]
    CopyExists { path: PathBuf },
    #[error("the path {path} is not UTF-8, which SQLite requires: choose another name")]
    BadName { path: PathBuf },
    #[error("can't start a thread for the store")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(crate) fn from_sqlite(doing: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::Foreign { path },
            Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, source },
            Some(ErrorCode::DiskFull) => OpenError::Full { doing, path },
            _ => OpenError::Sqlite { doing, path, source },
        }
    }
}

/// What an SQLite error means to the operator.
pub(super) fn reason_of(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("the disk of the data folder is full ({error}); free some space")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("the database is damaged ({error}); stop and restore the last backup")
        }
        Some(ErrorCode::SystemIoFailure) => {
            format!("the disk of the data folder fails ({error}); see the system log")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("the data folder is not writable ({error}); check its owner and permissions")
        }
        _ => error.to_string(),
    }
}
