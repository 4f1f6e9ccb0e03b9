//! The writer's queue.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use watchbill_core::ports::{Commit, CommitError, StoreError};
use watchbill_domain::Timestamp;

pub(super) type CommitAnswer = oneshot::Sender<Result<(), CommitError>>;
pub(super) type CountAnswer = oneshot::Sender<Result<usize, StoreError>>;

pub(super) enum Job {
    Commit {
        commit: Commit,
        answer: CommitAnswer,
    },
    /// Removes up to `limit` expired items.
    Purge {
        now: Timestamp,
        limit: usize,
        answer: CountAnswer,
    },
    /// Removes up to `limit` rows of changes that end at or before `upto`.
    Trim {
        upto: u64,
        limit: usize,
        answer: CountAnswer,
    },
}

pub(super) enum QueueError {
    Full,
    Closed(String),
}

/// A bounded batch of jobs that its only reader takes as a whole. Each push takes a lock, and
/// wakes the reader only if it sleeps.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    most: usize,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    reader_sleeps: bool,
    closed: Option<String>,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), most }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, job: Job) -> Result<(), QueueError> {
        let mut state = self.state();
        if let Some(reason) = &state.closed {
            return Err(QueueError::Closed(reason.clone()));
        }
        if state.jobs.len() >= self.most {
            return Err(QueueError::Full);
        }
        state.jobs.push(job);
        if std::mem::take(&mut state.reader_sleeps) {
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Swaps all jobs into `into`, which must be empty; sleeps until there are any. `false` if
    /// the queue is closed and empty.
    pub(super) fn take(&self, into: &mut Vec<Job>) -> bool {
        let mut state = self.state();
        while state.jobs.is_empty() {
            if state.closed.is_some() {
                return false;
            }
            state.reader_sleeps = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.reader_sleeps = false;
        std::mem::swap(&mut state.jobs, into);
        true
    }

    /// Refuses further jobs; queued ones are still done. The first reason is kept.
    pub(super) fn close(&self, reason: &str) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| reason.to_owned());
        drop(state);
        self.wake.notify_all();
    }

    /// Drops the queued jobs, so that their callers learn that there is no answer.
    pub(super) fn abandon(&self, reason: &str) {
        self.close(reason);
        let dropped = std::mem::take(&mut self.state().jobs);
        drop(dropped);
    }
}
