use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the store could not be opened or copied, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data folder {folder} is in use by another watchbill: stop that one, or give this \
         one a folder of its own with --data"
    )]
    Locked { folder: PathBuf },
    #[error(
        "{path} is not there, or is empty, but its folder is not new: it holds {traces}. Put the \
         database back (a copy in that folder, or the last backup) under that name and start \
         again; to begin anew without what was in it, move the whole folder away first"
    )]
    Lost { path: PathBuf, traces: String },
    #[error(
        "{path} is older than it was at the last run: it holds changes up to number {found}, and \
         {marked} were committed. Its write-ahead log was removed, or another file was put in \
         its place. Put back what is newer (a file watchbill.rescued-… in that folder is the \
         newest there can be); if you mean to go on from the older one, remove {lock} and start \
         again"
    )]
    Older { path: PathBuf, lock: PathBuf, found: u64, marked: u64 },
    #[error("can't use {folder}: {source}; check that it is a folder you may write to")]
    Folder { folder: PathBuf, source: io::Error },
    #[error(
        "{path} has version {found}, this build knows up to {known}: start the newer build that \
         wrote it, or restore the copy made before its migration"
    )]
    Newer { path: PathBuf, found: i32, known: usize },
    #[error("{path} is no watchbill database: give another folder with --data, or move it away")]
    Foreign { path: PathBuf },
    #[error("{path} is damaged: {source}; put the last backup in its place")]
    Damaged { path: PathBuf, source: rusqlite::Error },
    #[error("the disk is full: can't {doing} {path}; free some space and start again")]
    Full { doing: &'static str, path: PathBuf },
    #[error("can't {doing} {path}: {source}")]
    Sqlite { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "{path} can't have a write-ahead log (its journal is '{mode}'): the data folder must be \
         on a local disk, not on a network drive"
    )]
    NoWal { path: PathBuf, mode: String },
    #[error("{path} is there already: move it away or give another name")]
    CopyExists { path: PathBuf },
    #[error("{path} can't be given to SQLite: use a name in UTF-8")]
    BadName { path: PathBuf },
    #[error("can't start a thread for the store: {0}")]
    Thread(io::Error),
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

/// What SQLite's error means to the operator.
pub(super) fn reason_of(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("the disk of the data folder is full ({error}); free some space")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("the database is damaged ({error}); stop and put the last backup in its place")
        }
        Some(ErrorCode::SystemIoFailure) => {
            format!("the disk of the data folder fails ({error}); look at the system's log")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("the data folder may not be written ({error}); check its owner and rights")
        }
        _ => error.to_string(),
    }
}
