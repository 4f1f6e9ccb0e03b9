//! The contract between the executor, which holds the lease, and an agent, which works.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::decide::Leave;
use watchbill_core::ports::{Clock, Write};
use watchbill_domain::{Agent, LoggedEvent, Note, Question, Task, Timestamp, ToolCall};
use watchbill_governance::Planned;
use watchbill_redact as redact;

use crate::spending::Spending;
use crate::steps::Steps;

/// A plan and the payload that it was made of: good for that payload alone.
#[derive(Clone, Debug)]
pub struct PlannedFor {
    pub payload: Arc<Map<String, Value>>,
    pub planned: Arc<Planned>,
}

impl PlannedFor {
    /// The plan, if it is one of this payload.
    pub fn of(&self, payload: &Map<String, Value>) -> Option<&Arc<Planned>> {
        (*self.payload == *payload).then_some(&self.planned)
    }
}

/// What an agent gets to run one task.
pub struct Run {
    /// The task's header.
    pub task: Task,
    /// The whole payload, wherever it was stored.
    pub payload: Arc<Map<String, Value>>,
    /// What governance let through at the claim; nothing where the run was not claimed so.
    pub planned: Option<Arc<Planned>>,
    /// On `clock.monotonic()`: work must be over by then.
    pub deadline: Duration,
    pub clock: Arc<dyn Clock>,
    pub notes: Notes,
    /// By which mutating tools act; nothing where a run only reads.
    pub steps: Option<Steps>,
    /// By which models are called; nothing where a run calls none.
    pub spending: Option<Spending>,
}

impl Run {
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.monotonic())
    }

    /// The work's answer, or nothing if it takes longer than `at_most` or than the run has.
    pub async fn within<T>(&self, at_most: Duration, work: impl Future<Output = T>) -> Option<T> {
        let limit = self.clock.sleep(at_most.min(self.time_left()));
        tokio::select! {
            biased;
            done = work => Some(done),
            () = limit => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same again would fail the same way.
    No,
    /// Worth another run; `after` where the other side said when.
    Yes { after: Option<Duration> },
}

/// How a run ended. Events go out with the change that it causes.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    Done {
        result: Map<String, Value>,
        events: Vec<LoggedEvent>,
    },
    Failed {
        error: String,
        retry: Retry,
        events: Vec<LoggedEvent>,
    },
    Blocked {
        reason: String,
        question: Option<Question>,
    },
    Suspended {
        resume_at: Timestamp,
        note: String,
    },
    /// Governance did not let it go on.
    Withheld(Withheld),
}

/// What governance said instead of leave, and what is to be written with the end of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Withheld {
    pub leave: Leave,
    pub beside: Vec<Write>,
    /// The call that it was said of, at this version of the task: on another one governance is
    /// asked again. Nothing where it stands whatever becomes of the task.
    pub of: Option<(ToolCall, u64)>,
}

impl RunEnd {
    /// Failed for good, without events.
    pub fn terminal(error: impl Into<String>) -> Self {
        RunEnd::Failed { error: error.into(), retry: Retry::No, events: Vec::new() }
    }

    /// Failed, to be tried again when the executor sees fit, without events.
    pub fn retryable(error: impl Into<String>) -> Self {
        let retry = Retry::Yes { after: None };
        RunEnd::Failed { error: error.into(), retry, events: Vec::new() }
    }
}

#[async_trait]
pub trait TaskAgent: Send + Sync {
    fn agent(&self) -> Agent;

    /// False for one that only says that it is not built: governance has nothing to hold up.
    fn acts(&self) -> bool {
        true
    }

    async fn run(&self, run: &Run) -> RunEnd;
}

/// The loop's record, which the timeline shows: kept in order, bounded, free of secrets.
#[derive(Clone)]
pub struct Notes {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Vec<Note>>>,
}

impl Notes {
    /// Notes of one run; further ones are dropped.
    pub const MOST: usize = 32;
    /// Characters of one note's text.
    pub const TEXT: usize = 500;

    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kept: Arc::default() }
    }

    /// Does a step and notes how long it took and the text it gives back about itself.
    pub async fn record<T, F, Fut>(&self, step: &str, work: F) -> T
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = (T, String)> + Send,
    {
        let begun = self.clock.monotonic();
        let (done, text) = work().await;
        let took = self.clock.monotonic().saturating_sub(begun);
        self.add(step, u64::try_from(took.as_millis()).unwrap_or(u64::MAX), &text);
        done
    }

    pub fn add(&self, step: &str, ms: u64, text: &str) {
        let note = Note {
            step: step.chars().take(32).collect(),
            at: self.clock.now(),
            ms,
            text: redact::shortened(text, Self::TEXT),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::MOST {
            kept.push(note);
        }
    }

    pub fn list(&self) -> Vec<Note> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
