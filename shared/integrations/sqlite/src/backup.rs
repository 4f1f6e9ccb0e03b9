//! Copies a data folder, with or without a running server in it.
//!
//! The database is copied first, as of one moment, in one read transaction that does not
//! disturb writers; then the blobs. A blob is durable before the header that names it is
//! committed, so every blob in the copied headers exists. The copy gets its name last, so a
//! partial copy is never taken for a whole one.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use watchbill_core::ports::{BlobKey, Item};
use watchbill_core::repo::{Entity as _, decode};
use watchbill_domain::{Body, Task, Timestamp};

use crate::private::{parent, private_folder, private_options, sync_folder};
use crate::sqlite::{OpenError, copies};

/// The most faults that are named; the rest are only counted.
const MAX_NAMED: usize = 20;

#[derive(Debug, Default)]
pub struct BackupReport {
    pub items: u64,
    pub database_bytes: u64,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Damage that the copy shares with its source.
    pub faults: Faults,
}

#[derive(Debug, Default)]
pub struct Faults {
    pub count: u64,
    /// The first faults.
    pub named: Vec<String>,
}

impl Faults {
    fn add(&mut self, fault: String) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(fault);
        }
    }
}

/// Why there is no copy, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path} does not exist: name the data folder with --data")]
    NoDatabase { path: PathBuf },
    #[error("{path} already exists: choose another name for the copy, such as one with the date")]
    Exists { path: PathBuf },
    #[error(
        "{path} exists: an interrupted copy has left it, or a copy is running; remove it if no \
         copy is running"
    )]
    LeftOver { path: PathBuf },
    #[error("the database is damaged, its copy fails SQLite's integrity check: {found}")]
    Damaged { found: String },
    #[error("can't {doing} {path}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Database(#[from] OpenError),
}

fn file<'p>(doing: &'static str, path: &'p Path) -> impl Fn(io::Error) -> BackupError + 'p {
    move |source| BackupError::File { doing, path: path.to_owned(), source }
}

/// Copies the database and the blobs of the data folder `data` into the new folder `to`, but
/// not the plain text secrets `admin.key` and `link.key`. Blocks.
pub fn backup(data: &Path, to: &Path, now: Timestamp) -> Result<BackupReport, BackupError> {
    let database = data.join("watchbill.db");
    if fs::metadata(&database).map_or(0, |file| file.len()) == 0 {
        return Err(BackupError::NoDatabase { path: database });
    }
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let mut half = to.as_os_str().to_owned();
    half.push(".half");
    let half = PathBuf::from(half);
    private_folder(parent(&half)).map_err(file("create", parent(&half)))?;
    if half.symlink_metadata().is_ok() {
        return Err(BackupError::LeftOver { path: half });
    }
    private_folder(&half).map_err(file("create", &half))?;
    let copied = copy_into(data, &database, &half, now).and_then(|copied| {
        fs::rename(&half, to).map_err(file("rename the copy to", to))?;
        sync_folder(parent(to)).map_err(file("sync", parent(to)))?;
        Ok(copied)
    });
    if copied.is_err()
        && let Err(error) = fs::remove_dir_all(&half)
    {
        tracing::warn!(path = %half.display(), %error, "can't remove the partial copy");
    }
    copied
}

fn copy_into(
    data: &Path,
    database: &Path,
    half: &Path,
    now: Timestamp,
) -> Result<BackupReport, BackupError> {
    let mut copied = BackupReport::default();
    let copy = half.join("watchbill.db");
    copy_database(database, &copy)?;
    copied.database_bytes = fs::metadata(&copy).map_err(file("read the size of", &copy))?.len();
    let blobs = half.join("blobs");
    copy_blobs(&data.join("blobs"), &blobs, &mut copied)?;
    check(&copy, &blobs, now, &mut copied)?;
    sync_folder(half).map_err(file("sync", half))?;
    Ok(copied)
}

fn copy_database(from: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source| OpenError::from_sqlite("open", from, source);
    // Needs write access to read a log that a killed process left; creates no file.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(from, flags).map_err(failed)?;
    // The log stays as it is for the next start, even if no other process has it open.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    copies::check_known(&conn, from)?;
    Ok(copies::copy(&conn, to)?)
}

/// Copies files named `<tenant>/<task>/<hash>`, as in `blobs`; skips all others.
fn copy_blobs(from: &Path, to: &Path, copied: &mut BackupReport) -> Result<(), BackupError> {
    for tenant in entries(from)? {
        for task in entries(&tenant)? {
            for blob in entries(&task)? {
                copy_blob(from, &blob, to, copied)?;
            }
            if let Some(made) = made(from, &task, to) {
                sync_folder(&made).map_err(file("sync", &made))?;
            }
        }
        if let Some(made) = made(from, &tenant, to) {
            sync_folder(&made).map_err(file("sync", &made))?;
        }
    }
    Ok(())
}

/// The folder in the copy, if it was made.
fn made(from: &Path, folder: &Path, to: &Path) -> Option<PathBuf> {
    Some(to.join(folder.strip_prefix(from).ok()?)).filter(|folder| folder.is_dir())
}

fn copy_blob(
    from: &Path,
    blob: &Path,
    to: &Path,
    copied: &mut BackupReport,
) -> Result<(), BackupError> {
    let name = blob.strip_prefix(from).ok().and_then(Path::to_str);
    let Some(key) = name.and_then(BlobKey::parse) else { return Ok(()) };
    let bytes = match fs::read(blob) {
        Ok(bytes) => bytes,
        // Removed meanwhile, because its task has expired.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file("read", blob)(error)),
    };
    if !key.is_of(&bytes) {
        copied.faults.add(format!("blob {key} does not match its hash"));
    }
    let path = to.join(key.as_str());
    private_folder(parent(&path)).map_err(file("create", parent(&path)))?;
    let mut open = private_options().create_new(true).open(&path).map_err(file("create", &path))?;
    open.write_all(&bytes).and_then(|()| open.sync_all()).map_err(file("write", &path))?;
    copied.blobs += 1;
    copied.blob_bytes += bytes.len() as u64;
    Ok(())
}

/// Reads the copy as a restore would: the pages, each item, and whether its blobs exist.
fn check(
    copy: &Path,
    blobs: &Path,
    now: Timestamp,
    copied: &mut BackupReport,
) -> Result<(), BackupError> {
    let failed = |source| OpenError::from_sqlite("check", copy, source);
    let conn =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let found: String =
        conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        return Err(BackupError::Damaged { found });
    }
    copies::each_item(&conn, copy, |item| {
        copied.items += 1;
        match item {
            // Its blobs may have been removed during the copy.
            Ok(item) if item.expires.is_some_and(|at| at <= now) => {}
            Ok(item) => {
                blobs_of(&item).filter(|blob| !blobs.join(blob).is_file()).for_each(|blob| {
                    copied.faults.add(format!("{}: its blob {blob} is missing", item.key))
                })
            }
            Err(unreadable) => copied.faults.add(unreadable.to_string()),
        }
    })?;
    Ok(())
}

/// The blobs that a header names. A header that can't be decoded names none.
fn blobs_of(item: &Item) -> impl Iterator<Item = String> + use<> {
    let task = (*item.kind == *Task::KIND).then(|| decode::<Task>(item).ok()).flatten();
    let bodies = task.map(|task| [Some(task.value.payload), task.value.result]);
    bodies.into_iter().flatten().flatten().filter_map(|body| match body {
        Body::Blob(name, _) => Some(name),
        _ => None,
    })
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = file("list", folder);
    match fs::read_dir(folder) {
        Ok(read) => read.map(|entry| entry.map(|entry| entry.path()).map_err(&failed)).collect(),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
            _ => Err(failed(error)),
        },
    }
}
