//! Following the change feed.

use std::sync::Arc;

use tokio::sync::watch;
use watchbill_core::ports::{Change, StoreError};

use super::SqliteStore;

/// A follower of the feed: reads from the table until it has caught up with the tail in
/// memory, follows that, and goes back to the table whenever it falls too far behind.
/// Numbers have no gaps and say where it is, so nothing is missed between the two.
pub struct Feed {
    store: Arc<SqliteStore>,
    after: u64,
    last: watch::Receiver<u64>,
}

impl Feed {
    /// Begins with the change after `after`; 0 begins with the first that is kept.
    pub fn open(store: Arc<SqliteStore>, after: u64) -> Self {
        let last = store.shared.tail.watch();
        Self { store, after, last }
    }

    /// The number of the last change given.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Up to `max` changes, at least one: waits for it. On an error nothing is lost: ask
    /// again. Dropping the future loses nothing either.
    pub async fn next(&mut self, max: usize) -> Result<Vec<(u64, Change)>, StoreError> {
        let max = max.max(1);
        loop {
            let changes = match self.store.shared.tail.read(self.after, max) {
                Ok(changes) => changes,
                Err(_behind) => self.store.changes(self.after, max).await?,
            };
            if let Some((seq, _)) = changes.last() {
                self.after = *seq;
                return Ok(changes);
            }
            let after = self.after;
            // The sender lives in the store we hold.
            let _ = self.last.wait_for(|last| *last > after).await;
        }
    }
}
