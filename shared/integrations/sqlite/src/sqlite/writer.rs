//! The writer thread. It takes all waiting commits, puts them into one transaction, and answers
//! them only after its COMMIT. They share the cost of reaching the disk, and the next group
//! gathers while the disk works.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use watchbill_core::ports::{Commit, CommitError, StoreError, Write};

use super::apply::{Applier, CommitResult};
use super::checkpoint::Checkpoints;
use super::guard::Guard;
use super::queue::{CommitAnswer, CountAnswer, Job, Queue};
use super::reason_of;
use super::recent::ItemCache;
use super::statements::{Sql, Statements, last_numbers};
use super::tail::Tail;

/// Limits of a group, in writes and in bytes of bodies, so that it stays in the page cache and
/// its first commit need not wait long.
const GROUP_WRITES: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) queue: Arc<Queue>,
    pub(super) recent: Arc<ItemCache>,
    pub(super) tail: Arc<Tail>,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) guard: Arc<Guard>,
}

/// An answer that waits for COMMIT.
enum PendingReply {
    Commit(CommitAnswer, CommitResult),
    Count(CountAnswer, usize),
}

impl PendingReply {
    // If the receiver is gone its caller has stopped waiting, but the commit stands.
    fn give(self) {
        match self {
            PendingReply::Commit(answer, result) => drop(answer.send(result)),
            PendingReply::Count(answer, count) => drop(answer.send(Ok(count))),
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            PendingReply::Commit(answer, _) => drop(answer.send(Err(commit_error(error)))),
            PendingReply::Count(answer, _) => drop(answer.send(Err(error.clone()))),
        }
    }
}

fn commit_error(error: &StoreError) -> CommitError {
    match error {
        StoreError::Busy { after } => CommitError::Busy { after: *after },
        other => CommitError::Store(other.clone()),
    }
}

/// The answer to a transaction that was rolled back.
fn store_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Busy { after: Duration::from_millis(200) }
        }
        _ => StoreError::Down { reason: reason_of(error) },
    }
}

fn size(commit: &Commit) -> (usize, usize) {
    let body = |write: &Write| match write {
        Write::Put { item, .. } => item.body.len(),
        _ => 0,
    };
    (commit.writes.len(), commit.writes.iter().map(body).sum())
}

impl Writer {
    /// Runs until the queue is closed and empty.
    pub(super) fn run(self) {
        let started = last_numbers(&self.conn)
            .and_then(|numbers| Ok((Statements::prepare(&self.conn)?, numbers)));
        let (statements, numbers) = match started {
            Ok(started) => started,
            Err(error) => return self.die("the store's writer can't start", &error),
        };
        let mut applier = Applier::new(statements, self.recent.clone(), numbers);
        let (mut taken, mut owed) = (Vec::new(), Vec::new());
        while self.queue.take(&mut taken) {
            let mut jobs = taken.drain(..).peekable();
            while jobs.peek().is_some() {
                if !self.group(&mut applier, &mut jobs, &mut owed) {
                    return;
                }
                self.checkpoints.between_groups(&self.conn);
            }
        }
        drop(applier);
        if self.guard.has_ended() {
            return;
        }
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "can't empty the write-ahead log; the next start reads it");
        }
    }

    /// Runs one transaction; `false` if its outcome is in doubt and the store has ended.
    fn group(
        &self,
        applier: &mut Applier<'_>,
        jobs: &mut impl Iterator<Item = Job>,
        owed: &mut Vec<PendingReply>,
    ) -> bool {
        let began = match applier.statements.begin() {
            Ok(epoch) => {
                if let Err(taken) = self.guard.check_epoch(epoch) {
                    // Nothing was written; waiting callers learn that there is no answer.
                    self.guard.die(&taken);
                    return false;
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        let done = fill(began, applier, jobs, owed);
        if let Err(error) = done {
            applier.forget();
            if let Err(second) = applier.statements.rollback() {
                tracing::error!(%error, "a write to the store failed");
                self.die("the store can't roll back a failed write", &second);
                return false;
            }
            tracing::error!(%error, commits = owed.len(), "a group of commits was rolled back");
            let error = store_error(&error);
            owed.drain(..).for_each(|one| one.refuse(&error));
            return true;
        }
        if let Err(error) = applier.statements.commit() {
            // It is unknown what reached the disk; only a start from the log can tell.
            self.die("the store can't commit", &error);
            return false;
        }
        if let Err(lost) = self.guard.check_files() {
            // It is on a disk, but not in the file that the next start reads.
            self.guard.lost(&self.conn, &lost);
            return false;
        }
        let (first, changes) = applier.publish();
        self.tail.push(first, changes);
        owed.drain(..).for_each(PendingReply::give);
        true
    }

    fn die(&self, what: &str, error: &rusqlite::Error) {
        self.guard.die(&format!(
            "{what}: {}; restart the process, nothing acknowledged is lost",
            reason_of(error)
        ));
    }
}

/// Applies jobs until the group is full. On an error, every job taken is in `owed`.
fn fill(
    began: Sql<()>,
    applier: &mut Applier<'_>,
    jobs: &mut impl Iterator<Item = Job>,
    owed: &mut Vec<PendingReply>,
) -> Sql<()> {
    let (mut writes, mut bytes) = (0, 0);
    let mut failed = began.err();
    while writes < GROUP_WRITES && bytes < GROUP_BYTES {
        let Some(job) = jobs.next() else { break };
        let (answer, done) = match job {
            Job::Commit { commit, answer } => {
                let (more, heavy) = size(&commit);
                (writes, bytes) = (writes + more, bytes + heavy);
                let result = match &failed {
                    None => applier.commit(commit),
                    Some(_) => Ok(Ok(())),
                };
                split(result, Ok(()), |result| PendingReply::Commit(answer, result))
            }
            Job::Purge { now, limit, answer } => {
                writes += limit;
                let count = if failed.is_none() { applier.purge(now, limit) } else { Ok(0) };
                split(count, 0, |count| PendingReply::Count(answer, count))
            }
            Job::Trim { upto, limit, answer } => {
                writes += limit;
                let trimmed =
                    if failed.is_none() { applier.statements.trim(upto, limit) } else { Ok(0) };
                split(trimmed, 0, |count| PendingReply::Count(answer, count))
            }
        };
        owed.push(answer);
        failed = failed.or(done);
    }
    match failed {
        Some(error) => Err(error),
        None => applier.write_changes(),
    }
}

/// The answer owed, and the error if there is one.
fn split<T>(
    result: Sql<T>,
    none: T,
    owed: impl FnOnce(T) -> PendingReply,
) -> (PendingReply, Option<rusqlite::Error>) {
    match result {
        Ok(value) => (owed(value), None),
        Err(error) => (owed(none), Some(error)),
    }
}
