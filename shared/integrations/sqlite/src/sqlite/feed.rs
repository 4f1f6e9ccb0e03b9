//! Follows the change feed.

use std::sync::Arc;

use tokio::sync::watch;
use watchbill_core::ports::{Change, StoreError};

use super::SqliteStore;

/// A follower of the feed. It reads the table until it has caught up with the tail in memory,
/// follows the tail, and returns to the table if it falls too far behind. Numbers have no gaps
/// and mark its position, so nothing is missed in between.
pub struct ChangeFeed {
    store: Arc<SqliteStore>,
    after: u64,
    last: watch::Receiver<u64>,
}

impl ChangeFeed {
    /// Starts with the change after `after`; 0 starts with the first that is kept.
    pub fn open(store: Arc<SqliteStore>, after: u64) -> Self {
        let last = store.shared.tail.watch();
        Self { store, after, last }
    }

    /// The number of the last change returned.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Waits for at least one change and returns up to `max`. Errors and dropping the future
    /// lose nothing; call it again.
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
            // The sender is in the store that we hold.
            let _ = self.last.wait_for(|last| *last > after).await;
        }
    }
}
