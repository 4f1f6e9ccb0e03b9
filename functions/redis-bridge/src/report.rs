//! The bridge's status and counters, for `/health`, the log and metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use watchbill_wire::legacy::WriteOutcome;

/// State of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// No request has been made yet.
    #[default]
    Opening,
    Connected,
    /// The reason.
    Unreachable(String),
}

/// Counters since the start, and current values.
#[derive(Default)]
pub struct Metrics {
    pub taken: AtomicU64,
    pub retaken: AtomicU64,
    /// Updates written over legacy tasks or a domain's results.
    pub written: AtomicU64,
    /// Items that could not be read and were moved to the rejected ones.
    pub rejected: AtomicU64,
    /// The same, where even the id could not be read in Redis.
    pub moved_aside: AtomicU64,
    /// Items that the backend refused, such as events of reserved types.
    pub refused: AtomicU64,
    /// Tasks that Redis had lost when they were written back.
    pub lost_there: AtomicU64,
    pub fed: AtomicU64,
    pub fed_again: AtomicU64,
    pub events_in: AtomicU64,
    pub events_out: AtomicU64,
    /// Ids in the legacy queue at the last check.
    pub depth: AtomicU64,
    /// Milliseconds from the newest exported event's time to its export.
    pub lag_ms: AtomicU64,
    link: Mutex<Link>,
    /// The sync error that blocks a direction, by the direction's name.
    trouble: Mutex<std::collections::BTreeMap<&'static str, String>>,
}

/// A snapshot of [`Metrics`].
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `connected`, `unreachable`, or `opening`.
    pub connection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sync errors by direction.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub trouble: std::collections::BTreeMap<&'static str, String>,
    pub taken: u64,
    pub retaken: u64,
    pub written_back: u64,
    pub rejected: u64,
    pub refused: u64,
    pub lost_there: u64,
    pub fed: u64,
    pub fed_again: u64,
    pub events_in: u64,
    pub events_out: u64,
    pub queue_depth: u64,
    pub lag_ms: u64,
}

impl Metrics {
    pub fn add(&self, counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Counts the results of a write.
    pub fn count(&self, wrote: &[WriteOutcome]) {
        let of = |kind: WriteOutcome| wrote.iter().filter(|one| **one == kind).count();
        let lost = of(WriteOutcome::Lost);
        self.add(&self.written, of(WriteOutcome::Written) + lost);
        self.add(&self.lost_there, lost);
        self.add(&self.refused, of(WriteOutcome::Foreign));
    }

    /// Sets the connection state. Returns true if it changed.
    pub fn set_link(&self, link: Link) -> bool {
        let mut known = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let news = std::mem::discriminant(&*known) != std::mem::discriminant(&link);
        *known = link;
        news
    }

    /// Sets or clears a direction's sync error. Returns true if it changed.
    pub fn set_trouble(&self, direction: &'static str, trouble: Option<String>) -> bool {
        let mut all = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(direction) == trouble.as_ref() {
            return false;
        }
        match trouble {
            Some(trouble) => all.insert(direction, trouble),
            None => all.remove(direction),
        };
        true
    }

    pub fn report(&self) -> Report {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (connection, reason) = match link {
            Link::Opening => ("opening", None),
            Link::Connected => ("connected", None),
            Link::Unreachable(reason) => ("unreachable", Some(reason)),
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            connection,
            reason,
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            taken: get(&self.taken),
            retaken: get(&self.retaken),
            written_back: get(&self.written),
            rejected: get(&self.rejected) + get(&self.moved_aside),
            refused: get(&self.refused),
            lost_there: get(&self.lost_there),
            fed: get(&self.fed),
            fed_again: get(&self.fed_again),
            events_in: get(&self.events_in),
            events_out: get(&self.events_out),
            queue_depth: get(&self.depth),
            lag_ms: get(&self.lag_ms),
        }
    }
}
