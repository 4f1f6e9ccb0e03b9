//! The port that wakes followers.

use std::time::Duration;

use async_trait::async_trait;

use watchbill_domain::{TaskId, TenantId};

/// What a follower waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The tenant's ledger has grown.
    Ledger(TenantId),
    /// This task has changed.
    Task(TenantId, TaskId),
    /// A task of this tenant waits for an external worker.
    External(TenantId),
}

/// Lets a follower sleep until there may be something new, instead of polling. A wake-up may be
/// spurious: it only saves time and guarantees nothing. A follower takes the topic's `mark`, reads
/// the store, and waits for the mark to move, so that a change between the two is not missed.
#[async_trait]
pub trait Wake: Send + Sync {
    fn mark(&self, topic: &Topic) -> u64;

    /// Returns when the topic's mark is no longer `seen`, or after `at_most`.
    async fn wait(&self, topic: &Topic, seen: u64, at_most: Duration);

    fn wake(&self, topic: &Topic);
}
