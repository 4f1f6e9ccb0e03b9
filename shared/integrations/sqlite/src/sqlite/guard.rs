//! Checks that the open files are still those that the next start will read, and that this
//! process still owns them. What is answered after a check is in the file that has the
//! database's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;

use super::lock::{DatabaseMark, Lock};
use super::queue::Queue;
use super::statements::{Sql, epoch};
use super::{OnFatal, schema};

/// The identity of a file behind a name. Replacing the file changes it, except by chance after
/// the old one is closed, and here it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let file = fs::metadata(path)?;
    Ok(Identity(file.dev(), file.ino()))
}

/// Open files can't be removed on these systems.
#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|_| Identity(0, 0))
}

pub(super) struct Guard {
    files: Vec<(PathBuf, Identity)>,
    database: PathBuf,
    epoch: u64,
    lock: Lock,
    marked: AtomicU64,
    queue: Arc<Queue>,
    on_fatal: OnFatal,
    ended: AtomicBool,
}

impl Guard {
    /// Records the files after the first commit, when all of them exist.
    pub(super) fn new(
        lock: Lock,
        database: &Path,
        epoch: u64,
        queue: Arc<Queue>,
        on_fatal: OnFatal,
    ) -> io::Result<Self> {
        let log = database.with_extension("db-wal");
        let shared = database.with_extension("db-shm");
        let paths = [database.to_owned(), log, shared, lock.path().to_owned()];
        let files = paths.into_iter().map(|path| identity(&path).map(|is| (path, is)));
        Ok(Self {
            files: files.collect::<io::Result<_>>()?,
            database: database.to_owned(),
            epoch,
            lock,
            marked: AtomicU64::new(u64::MAX),
            queue,
            on_fatal,
            ended: AtomicBool::new(false),
        })
    }

    /// Returns what has changed since the files were opened. Four calls of `stat`: a few
    /// microseconds.
    pub(super) fn check_files(&self) -> Result<(), String> {
        for (path, opened) in &self.files {
            let what = match identity(path) {
                Ok(now) if now == *opened => continue,
                Ok(_) => "was replaced".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed".to_owned(),
                Err(error) => format!("can't be accessed any more ({error})"),
            };
            return Err(format!("{} {what} while it was in use", path.display()));
        }
        Ok(())
    }

    /// Whether no other process has opened the database since.
    pub(super) fn check_epoch(&self, found: u64) -> Result<(), String> {
        if found == self.epoch {
            return Ok(());
        }
        Err(format!(
            "another process has opened {} (its start number is {found}, here it is {}); this one \
             has written nothing since",
            self.database.display(),
            self.epoch
        ))
    }

    /// A check outside of a commit. False if the store has ended.
    pub(super) fn look(&self, conn: &Connection, seq: u64) -> Sql<bool> {
        if let Err(lost) = self.check_files() {
            self.lost(conn, &lost);
            return Ok(false);
        }
        if let Err(taken) = self.check_epoch(epoch(conn)?) {
            self.die(&taken);
            return Ok(false);
        }
        if self.marked.swap(seq, Ordering::Relaxed) != seq
            && let Err(error) = self.lock.mark(DatabaseMark { epoch: self.epoch, seq })
        {
            let path = self.lock.path().display();
            tracing::warn!(%path, %error, "can't write the last change's number");
        }
        Ok(true)
    }

    /// Ends the store because its files are no longer at their names. They are still open here
    /// but would be lost with the process, so everything in them is copied first.
    pub(super) fn lost(&self, conn: &Connection, what: &str) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.abandon(what);
        let copy = self.database.with_extension(format!("rescued-{}.db", self.epoch));
        let kept = match schema::backup(conn, &copy) {
            Ok(()) => format!(
                "all committed data is in {}: rename it to {}",
                copy.display(),
                self.database.display()
            ),
            Err(error) => format!("the committed data could not be copied: {error}"),
        };
        // More may have been answered since the last check, so a start on the remaining files
        // must see that they are older.
        let marked = super::statements::last_numbers(conn)
            .map(|(_, seq)| self.lock.mark(DatabaseMark { epoch: self.epoch, seq }));
        if !matches!(marked, Ok(Ok(()))) {
            let path = self.lock.path().display();
            tracing::warn!(%path, result = ?marked, "can't write the last change's number");
        }
        (self.on_fatal)(&format!("{what}; {kept}"));
    }

    /// Ends the store, once. Waiting callers learn that there is no answer.
    pub(super) fn die(&self, message: &str) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.abandon(message);
        (self.on_fatal)(message);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
