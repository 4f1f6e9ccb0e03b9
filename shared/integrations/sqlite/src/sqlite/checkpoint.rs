//! Moves the write-ahead log into the database in parallel with the writer, which would
//! otherwise stop for it, truncates its file, and checks the store while it is idle.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::guard::Guard;
use super::tail::Tail;

/// SQLite's default page size.
const PAGE_BYTES: u64 = 4096;

/// Remaining pages that the writer itself moves between two groups.
const FEW: i64 = 256;

/// How often the files are checked while nothing is written.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The log's size, as a multiple of its limit, that causes a warning: some reader holds it.
const WARN_TIMES: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReport {
    pub bytes: u64,
    /// It can't be moved, because a reader still needs its contents.
    pub held: bool,
}

/// A checkpoint can restart the log only if nothing was written since. So the thread moves most
/// of it while the writer writes, then lets the writer move the little that was added
/// meanwhile.
pub(super) struct Checkpoints {
    log: PathBuf,
    limit: u64,
    /// Pages in the log after the last COMMIT.
    pages: AtomicU32,
    /// Little is left, for the writer to move.
    nearly_done: AtomicBool,
    /// Size of the log file at the last check, in bytes.
    bytes: AtomicU64,
    held: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    stop: bool,
}

/// Returns the pages in the log and the pages moved.
fn passive(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Moves the rest and empties the file. False if a reader or the writer prevents it.
fn truncate(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

impl Checkpoints {
    pub(super) fn new(database: &Path, limit: u64) -> Self {
        Self {
            log: database.with_extension("db-wal"),
            limit,
            pages: AtomicU32::new(0),
            nearly_done: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            held: AtomicBool::new(false),
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Counts the pages that `writer` leaves in the log, and lets it truncate the file to the
    /// limit when it restarts the log.
    pub(super) fn watch(self: &Arc<Self>, writer: &mut Connection) -> rusqlite::Result<()> {
        writer.pragma_update(None, "journal_size_limit", self.limit.cast_signed())?;
        let this = self.clone();
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            this.pages.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))
    }

    pub(super) fn report(&self) -> LogReport {
        LogReport {
            bytes: self.bytes.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
        }
    }

    /// Called by the writer between two groups.
    pub(super) fn between_groups(&self, writer: &Connection) {
        if u64::from(self.pages.load(Ordering::Relaxed)) < self.limit / PAGE_BYTES {
            return;
        }
        if self.nearly_done.swap(false, Ordering::Acquire) {
            self.pages.store(0, Ordering::Relaxed);
            if let Err(error) = passive(writer) {
                tracing::warn!(%error, "can't checkpoint the write-ahead log, which keeps growing");
            }
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.wanted {
            state.wanted = true;
            self.wake.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.wake.notify_one();
    }

    /// Runs until it is stopped or the store has ended.
    pub(super) fn run(&self, conn: &Connection, guard: &Guard, tail: &Tail) {
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |state: &mut State| !state.wanted && !state.stop;
            let (state, _) = self
                .wake
                .wait_timeout_while(state, POLL_INTERVAL, idle)
                .unwrap_or_else(PoisonError::into_inner);
            let (stop, wanted) = (state.stop, state.wanted);
            drop(state);
            if stop || guard.has_ended() {
                return;
            }
            match guard.look(conn, tail.last()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::warn!(%error, "can't check the store's files"),
            }
            let moved = match wanted {
                true => self.move_most(conn),
                false => self.tidy(conn),
            };
            if let Err(error) = moved {
                let log = self.log.display();
                tracing::warn!(%log, %error, "can't checkpoint the write-ahead log");
            }
            if wanted {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).wanted = false;
            }
        }
    }

    fn move_most(&self, conn: &Connection) -> rusqlite::Result<()> {
        // Each round leaves what was written during it. Four rounds are enough for any writer
        // that is slower than the disk.
        let mut moved_before = 0;
        for _ in 0..4 {
            let (_, moved) = passive(conn)?;
            if moved - moved_before < FEW {
                break;
            }
            moved_before = moved;
        }
        self.nearly_done.store(true, Ordering::Release);
        // The log restarts soon after its limit, unless a reader needs it.
        let bytes = self.measure();
        self.held.store(bytes > self.limit.saturating_mul(WARN_TIMES), Ordering::Relaxed);
        Ok(())
    }

    /// Truncates a log above its limit that no reader needs any more, even if nothing is
    /// written that would restart it. Records whether a reader still needs it.
    pub(super) fn tidy(&self, conn: &Connection) -> rusqlite::Result<()> {
        if self.measure() > self.limit {
            let (pages, moved) = passive(conn)?;
            let free = pages == moved && truncate(conn)?;
            self.held.store(!free, Ordering::Relaxed);
            self.measure();
        } else {
            self.held.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Measures the log file, and warns when it becomes far too large.
    fn measure(&self) -> u64 {
        let bytes = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let large = self.limit.saturating_mul(WARN_TIMES);
        if bytes > large && before <= large {
            tracing::warn!(
                log = %self.log.display(),
                bytes,
                "the write-ahead log is far above its limit: a long read holds it, such as a \
                 copy or a transaction left open in a shell; it is truncated when that read ends"
            );
        }
        bytes
    }
}
