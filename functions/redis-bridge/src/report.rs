//! What the bridge tells of itself: on `/health`, in the log, and as metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use watchbill_wire::peer::Wrote;

/// How the connection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Nothing was asked of the peer yet.
    #[default]
    Opening,
    Connected,
    /// Why not.
    Unreachable(String),
}

/// Counts since the start, and how things stand now.
#[derive(Default)]
pub struct Figures {
    pub taken: AtomicU64,
    pub retaken: AtomicU64,
    /// Changes written back over the peer's tasks or a domain's results.
    pub written: AtomicU64,
    /// What could not be read, and was put among the rejected.
    pub rejected: AtomicU64,
    /// The same, where the peer's side could not even read the id.
    pub moved_aside: AtomicU64,
    /// What the bundle would not accept: events of reserved types and the like.
    pub refused: AtomicU64,
    /// Tasks that the peer had lost when they were written back.
    pub lost_there: AtomicU64,
    pub fed: AtomicU64,
    pub fed_again: AtomicU64,
    pub events_in: AtomicU64,
    pub events_out: AtomicU64,
    /// Ids in the peer's queue at the last look.
    pub depth: AtomicU64,
    /// Milliseconds between the newest event that was written out and its happening.
    pub lag_ms: AtomicU64,
    link: Mutex<Link>,
    /// What holds a direction up, by its name.
    trouble: Mutex<std::collections::BTreeMap<&'static str, String>>,
}

/// [`Figures`] at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `connected`, `unreachable`, or `opening`.
    pub connection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What holds single directions up.
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

impl Figures {
    pub fn add(&self, counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// What came of writing back.
    pub fn count(&self, wrote: &[Wrote]) {
        let of = |kind: Wrote| wrote.iter().filter(|one| **one == kind).count();
        let lost = of(Wrote::Lost);
        self.add(&self.written, of(Wrote::Written) + lost);
        self.add(&self.lost_there, lost);
        self.add(&self.refused, of(Wrote::Foreign));
    }

    /// True where the connection came or went by it.
    pub fn set_link(&self, link: Link) -> bool {
        let mut known = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let news = std::mem::discriminant(&*known) != std::mem::discriminant(&link);
        *known = link;
        news
    }

    /// Notes what holds a direction up, or that nothing does. True where that is news.
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
