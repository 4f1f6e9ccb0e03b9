//! Checks at a start that the database is the one that the last start left. A missing or older
//! one must not pass for a first start, which would write next to lost data.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::lock::{DatabaseMark, Lock};
use super::{OpenError, statements};

/// What an earlier start leaves and a first start never finds. Not `link.key`, which is created
/// before the database.
const TRACES: &[&str] = &["admin.key", "blobs", "watchbill.db-wal"];
/// Name prefixes of database copies: see `schema::migrate` and `guard`.
const COPIES: &[&str] = &["watchbill.before-v", "watchbill.rescued-"];

/// Refuses an absent or empty database if there was one.
pub(super) fn check_absent(lock: &Lock, path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(file) if file.len() > 0 => Ok(()),
        _ => refuse_if_traces(lock, path, TRACES),
    }
}

/// Refuses a file without tables if there was a database: its log was removed before any of it
/// was moved into the file.
pub(super) fn check_blank(lock: &Lock, path: &Path, conn: &Connection) -> Result<(), OpenError> {
    let failed = |source| OpenError::from_sqlite("read", path, source);
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if tables > 0 {
        return Ok(());
    }
    // The connection itself may have created a log by now.
    refuse_if_traces(lock, path, &["admin.key", "blobs"])
}

/// Refuses a database older than its mark: answered changes are missing from it.
pub(super) fn check_age(lock: &Lock, path: &Path, conn: &Connection) -> Result<(), OpenError> {
    let failed = |source| OpenError::from_sqlite("read", path, source);
    let unusable = |source| OpenError::Folder { folder: lock.path().to_owned(), source };
    let Some(marked) = lock.marked().map_err(unusable)? else { return Ok(()) };
    let found = DatabaseMark {
        epoch: statements::epoch(conn).map_err(failed)?,
        seq: statements::last_numbers(conn).map_err(failed)?.1,
    };
    if found.epoch < marked.epoch || found.seq < marked.seq {
        let (path, lock) = (path.to_owned(), lock.path().to_owned());
        return Err(OpenError::Older { path, lock, found: found.seq, marked: marked.seq });
    }
    Ok(())
}

fn refuse_if_traces(lock: &Lock, path: &Path, names: &[&str]) -> Result<(), OpenError> {
    let folder = crate::private::parent(path);
    let mut found: Vec<String> = names
        .iter()
        .filter(|name| holds_something(&folder.join(name)))
        .map(|name| (*name).to_owned())
        .collect();
    found.extend(copies(folder));
    if lock.is_marked() {
        found.push(file_name(lock.path()));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(OpenError::Lost { path: path.to_owned(), traces: found.join(", ") })
}

fn holds_something(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        }
        Ok(found) => found.len() > 0,
        Err(_) => false,
    }
}

fn copies(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| file_name(&entry.path()));
    let mut names: Vec<String> =
        names.filter(|name| COPIES.iter().any(|copy| name.starts_with(copy))).collect();
    names.sort_unstable();
    names
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Removes others' permissions on every file that holds data or secrets of an earlier start.
pub(super) fn restrict_all(folder: &Path, database: &Path) -> Result<(), OpenError> {
    let mut files: Vec<PathBuf> = ["db-wal", "db-shm", "db-journal"]
        .iter()
        .map(|extension| database.with_extension(extension))
        .collect();
    files.push(database.to_owned());
    files.extend(["admin.key", "link.key"].iter().map(|name| folder.join(name)));
    files.extend(copies(folder).iter().map(|name| folder.join(name)));
    for file in files {
        let restricted = crate::private::restrict(&file);
        let had =
            restricted.map_err(|source| OpenError::Folder { folder: file.clone(), source })?;
        if had {
            let file = file.display();
            tracing::warn!(%file, "removed other users' permissions on the file");
        }
    }
    Ok(())
}
