//! The one thread that writes. It takes all commits that wait, puts them into one
//! transaction, and answers them only after its COMMIT: the price of reaching the disk is
//! shared by all of them, and while the disk works the next group gathers.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use watchbill_core::ports::{Commit, CommitError, StoreError, Write};

use super::apply::{Applier, Verdict};
use super::checkpoint::Checkpoints;
use super::guard::Guard;
use super::queue::{CommitAnswer, CountAnswer, Job, Queue};
use super::reason_of;
use super::recent::Recent;
use super::statements::{Sql, Statements, last_numbers};
use super::tail::Tail;

/// A group ends at so many writes or bytes of bodies, so that it stays in the page cache
/// and the first of it needn't wait long.
const GROUP_WRITES: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) queue: Arc<Queue>,
    pub(super) recent: Arc<Recent>,
    pub(super) tail: Arc<Tail>,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) guard: Arc<Guard>,
}

/// An answer that waits for COMMIT.
enum Owed {
    Commit(CommitAnswer, Verdict),
    Count(CountAnswer, usize),
}

impl Owed {
    // A receiver that is gone has stopped waiting; its commit stands all the same.
    fn give(self) {
        match self {
            Owed::Commit(answer, verdict) => drop(answer.send(verdict)),
            Owed::Count(answer, count) => drop(answer.send(Ok(count))),
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Owed::Commit(answer, _) => drop(answer.send(Err(commit_error(error)))),
            Owed::Count(answer, _) => drop(answer.send(Err(error.clone()))),
        }
    }
}

fn commit_error(error: &StoreError) -> CommitError {
    match error {
        StoreError::Busy { after } => CommitError::Busy { after: *after },
        other => CommitError::Store(other.clone()),
    }
}

/// What a transaction that was rolled back is answered.
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
    /// The thread's life: until the queue is closed and empty.
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
            tracing::warn!(%error, "the write-ahead log stays; the next start reads it");
        }
    }

    /// One transaction; `false` if it is in doubt and all is over.
    fn group(
        &self,
        applier: &mut Applier<'_>,
        jobs: &mut impl Iterator<Item = Job>,
        owed: &mut Vec<Owed>,
    ) -> bool {
        let began = match applier.statements.begin() {
            Ok(epoch) => {
                if let Err(taken) = self.guard.check_epoch(epoch) {
                    // Nothing was written; who waits learns that there is no answer.
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
                self.die("the store can't undo a failed write", &second);
                return false;
            }
            tracing::error!(%error, commits = owed.len(), "a group of commits was rolled back");
            let error = store_error(&error);
            owed.drain(..).for_each(|one| one.refuse(&error));
            return true;
        }
        if let Err(error) = applier.statements.commit() {
            // Nobody knows what reached the disk: only a start from the log can tell.
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
        owed.drain(..).for_each(Owed::give);
        true
    }

    fn die(&self, what: &str, error: &rusqlite::Error) {
        self.guard.die(&format!(
            "{what}: {}; start it again, nothing that was answered is lost",
            reason_of(error)
        ));
    }
}

/// Applies jobs until the group is full. An error leaves every job it took in `owed`.
fn fill(
    began: Sql<()>,
    applier: &mut Applier<'_>,
    jobs: &mut impl Iterator<Item = Job>,
    owed: &mut Vec<Owed>,
) -> Sql<()> {
    let (mut writes, mut bytes) = (0, 0);
    let mut failed = began.err();
    while writes < GROUP_WRITES && bytes < GROUP_BYTES {
        let Some(job) = jobs.next() else { break };
        let (answer, done) = match job {
            Job::Commit { commit, answer } => {
                let (more, heavy) = size(&commit);
                (writes, bytes) = (writes + more, bytes + heavy);
                let verdict = match &failed {
                    None => applier.commit(commit),
                    Some(_) => Ok(Ok(())),
                };
                split(verdict, Ok(()), |verdict| Owed::Commit(answer, verdict))
            }
            Job::Purge { now, limit, answer } => {
                writes += limit;
                let count = if failed.is_none() { applier.purge(now, limit) } else { Ok(0) };
                split(count, 0, |count| Owed::Count(answer, count))
            }
            Job::Trim { upto, limit, answer } => {
                writes += limit;
                let trimmed =
                    if failed.is_none() { applier.statements.trim(upto, limit) } else { Ok(0) };
                split(trimmed, 0, |count| Owed::Count(answer, count))
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

/// The answer owed, and the error if there is none to give.
fn split<T>(
    result: Sql<T>,
    none: T,
    owed: impl FnOnce(T) -> Owed,
) -> (Owed, Option<rusqlite::Error>) {
    match result {
        Ok(value) => (owed(value), None),
        Err(error) => (owed(none), Some(error)),
    }
}
