//! Whether the files that are open are still those that the next start will read, and whether
//! this process is still the one that owns them. What is answered after a look here is in the
//! file that has the database's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;

use super::lock::{Lock, Mark};
use super::queue::Queue;
use super::statements::{Sql, epoch};
use super::{OnFatal, schema};

/// Which file a name stands for. Removing a file and making another under its name gives
/// another number, except by chance after the old one is closed, and it is open here.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let file = fs::metadata(path)?;
    Ok(Identity(file.dev(), file.ino()))
}

/// An open file can't be removed there.
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
    /// Over the files as they are once the first commit has been made: all are there then.
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

    /// What is no longer as it was opened. Four calls of `stat`: a few microseconds.
    pub(super) fn check_files(&self) -> Result<(), String> {
        for (path, opened) in &self.files {
            let what = match identity(path) {
                Ok(now) if now == *opened => continue,
                Ok(_) => "was replaced".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed".to_owned(),
                Err(error) => format!("can't be looked at any more ({error})"),
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
            "another process has taken {} over (start number {found}, this is {}); this one has \
             written nothing since",
            self.database.display(),
            self.epoch
        ))
    }

    /// A look from outside of a commit. False: it is all over.
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
            && let Err(error) = self.lock.mark(Mark { epoch: self.epoch, seq })
        {
            tracing::warn!("can't write to {}: {error}", self.lock.path().display());
        }
        Ok(true)
    }

    /// Ends the store because its files are no longer at their names. They are still open here,
    /// and with this process they would be gone: so all that is in them is copied first.
    pub(super) fn lost(&self, conn: &Connection, what: &str) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.abandon(what);
        let copy = self.database.with_extension(format!("rescued-{}.db", self.epoch));
        let kept = match schema::backup(conn, &copy) {
            Ok(()) => format!(
                "all that was committed is in {}: rename it to {}",
                copy.display(),
                self.database.display()
            ),
            Err(error) => format!("a copy of what was committed could not be made: {error}"),
        };
        // Since the last look more may have been answered: a start on what is left must see that
        // it is older.
        let marked = super::statements::last_numbers(conn)
            .map(|(_, seq)| self.lock.mark(Mark { epoch: self.epoch, seq }));
        if !matches!(marked, Ok(Ok(()))) {
            tracing::warn!("can't write to {}: {marked:?}", self.lock.path().display());
        }
        (self.on_fatal)(&format!("{what}; {kept}"));
    }

    /// Ends the store, once; what waits learns that there is no answer.
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
