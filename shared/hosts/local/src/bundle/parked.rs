//! What waits for its replay, as the last sweep found it: health is answered from memory.

use std::sync::{Mutex, PoisonError};

use watchbill_core::service::ParkedSummary;
use watchbill_domain::Timestamp;

#[derive(Default)]
pub struct Parked(Mutex<ParkedSummary>);

/// Changes that are not recorded, or whose events are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedReport {
    /// Items with such changes.
    pub items: u64,
    pub tenants: u64,
    /// How long the oldest one has waited.
    pub oldest_seconds: u64,
}

impl Parked {
    pub fn set(&self, found: ParkedSummary) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    pub fn report(&self, now: Timestamp) -> ParkedReport {
        let found = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ParkedReport {
            items: found.items,
            tenants: found.tenants,
            oldest_seconds: found.since.map_or(0, |since| now.since(since).as_secs()),
        }
    }
}
