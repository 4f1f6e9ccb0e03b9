//! Moves the write-ahead log into the database beside the writer, which would otherwise
//! stand still for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::Connection;

/// From this many pages (64 MB) the log is moved. Larger: fewer pages are moved, because
/// more of them were overwritten meanwhile; smaller: a quicker start after a crash.
const PAGES: u32 = 16 * 1024;

/// So few that the writer itself moves the rest, between two groups.
const FEW: i64 = 256;

/// A checkpoint can start the log anew only where nothing was written since. So the
/// thread moves most of it while the writer writes, and then lets the writer move the
/// little that came meanwhile.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Pages in the log after the last COMMIT.
    pages: AtomicU32,
    /// The rest is little: the writer's turn.
    nearly_done: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    stop: bool,
}

/// Gives pages in the log and pages moved.
fn passive(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
}

impl Checkpoints {
    /// Counts the pages that `writer` leaves in the log.
    pub(super) fn watch(self: &Arc<Self>, writer: &mut Connection) -> rusqlite::Result<()> {
        let this = self.clone();
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            this.pages.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        }))
    }

    /// Called by the writer between two groups.
    pub(super) fn between_groups(&self, writer: &Connection) {
        if self.pages.load(Ordering::Relaxed) < PAGES {
            return;
        }
        if self.nearly_done.swap(false, Ordering::Acquire) {
            self.pages.store(0, Ordering::Relaxed);
            if let Err(error) = passive(writer) {
                tracing::warn!(%error, "the write-ahead log was not moved and goes on growing");
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

    /// The thread's life.
    pub(super) fn run(&self, conn: Connection, path: PathBuf) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stop {
                return;
            }
            if !state.wanted {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            match Self::move_most(&conn) {
                Ok(()) => self.nearly_done.store(true, Ordering::Release),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "can't move the write-ahead log");
                }
            }
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.wanted = false;
        }
    }

    fn move_most(conn: &Connection) -> rusqlite::Result<()> {
        // Each round leaves what was written during it; four rounds are enough for any
        // writer that is slower than the disk.
        let mut moved_before = 0;
        for _ in 0..4 {
            let (_, moved) = passive(conn)?;
            if moved - moved_before < FEW {
                break;
            }
            moved_before = moved;
        }
        Ok(())
    }
}
