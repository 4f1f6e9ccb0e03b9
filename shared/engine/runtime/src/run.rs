//! The contract between the executor, which holds the lease, and an agent, which does the work.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_core::decide::Authorization;
use watchbill_core::ports::{Clock, Write};
use watchbill_domain::{Agent, LoggedEvent, Note, Question, Task, Timestamp, ToolCall};
use watchbill_governance::Planned;
use watchbill_redact as redact;

use crate::journal::Journal;
use crate::model_budget::ModelBudget;

/// A plan and the payload that it was made from. It is valid for that payload only.
#[derive(Clone, Debug)]
pub struct PlannedFor {
    pub payload: Arc<Map<String, Value>>,
    pub planned: Arc<Planned>,
}

impl PlannedFor {
    /// The plan, if it was made from this payload.
    pub fn of(&self, payload: &Map<String, Value>) -> Option<&Arc<Planned>> {
        (*self.payload == *payload).then_some(&self.planned)
    }
}

/// The input of an agent for one task.
pub struct Run {
    /// The task's header.
    pub task: Task,
    /// The whole payload, wherever it was stored.
    pub payload: Arc<Map<String, Value>>,
    /// The plan that governance authorized at the claim. `None` if the claim made none.
    pub planned: Option<Arc<Planned>>,
    /// On `clock.monotonic()`: work must end by then.
    pub deadline: Duration,
    pub clock: Arc<dyn Clock>,
    pub notes: Notes,
    /// The journal for mutating tools. `None` if a run only reads.
    pub journal: Option<Journal>,
    /// The budget for model calls. `None` if a run makes none.
    pub spending: Option<ModelBudget>,
}

impl Run {
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.monotonic())
    }

    /// The result of `work`, or `None` if it takes longer than `at_most` or than the time left.
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
    /// A retry would fail the same way.
    No,
    /// A retry may succeed; `after` if the other side gave a delay.
    Yes { after: Option<Duration> },
}

/// How a run ended. Its events are published with the resulting change.
#[derive(Clone, Debug, PartialEq)]
pub enum RunOutcome {
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
    /// Governance did not authorize it to continue.
    NotAuthorized(NotAuthorized),
}

/// The decision of governance that is not a grant, and what to write with the end of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct NotAuthorized {
    pub authorization: Authorization,
    pub extra_writes: Vec<Write>,
    /// The call that was decided on, at this version of the task. At another version governance
    /// decides again. `None` if the decision applies whatever the state of the task is.
    pub of: Option<(ToolCall, u64)>,
}

impl RunOutcome {
    /// Failed for good, without events.
    pub fn terminal(error: impl Into<String>) -> Self {
        RunOutcome::Failed { error: error.into(), retry: Retry::No, events: Vec::new() }
    }

    /// Failed without events; the executor chooses when to retry.
    pub fn retryable(error: impl Into<String>) -> Self {
        let retry = Retry::Yes { after: None };
        RunOutcome::Failed { error: error.into(), retry, events: Vec::new() }
    }
}

#[async_trait]
pub trait TaskAgent: Send + Sync {
    fn agent(&self) -> Agent;

    /// False for an agent that only reports that it is not built: governance has nothing to
    /// decide.
    fn is_implemented(&self) -> bool {
        true
    }

    async fn run(&self, run: &Run) -> RunOutcome;
}

/// The record of the loop for the timeline: ordered, bounded, free of secrets.
#[derive(Clone)]
pub struct Notes {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Vec<Note>>>,
}

impl Notes {
    /// Notes of one run; further ones are dropped.
    pub const MAX_NOTES: usize = 32;
    /// Characters of one note's text.
    pub const MAX_NOTE_CHARS: usize = 500;

    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kept: Arc::default() }
    }

    /// Does a step and records its duration and the text that it returns.
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
            text: redact::shortened(text, Self::MAX_NOTE_CHARS),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::MAX_NOTES {
            kept.push(note);
        }
    }

    pub fn list(&self) -> Vec<Note> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
