//! The recorder's checkpoint in the change feed, saved from time to time. Later changes are read
//! again at the next start and found in the ledger.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchbill_core::ports::{Key, Precondition, Store as _, StoreError, Write};
use watchbill_core::repo::{Entity, Versioned, decode, encode};
use watchbill_core::service::Core;
use watchbill_sqlite::sqlite::SqliteStore;

/// How often the checkpoint is saved while there is work.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// How many groups of old changes are deleted at a time.
const TRIM_LIMIT: usize = 2_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Position {
    seq: u64,
}

impl Entity for Position {
    const KIND: &'static str = "feed_position";

    fn key(&self) -> Key {
        Key::new("SYS#feed", "recorder")
    }
}

pub async fn load(store: &SqliteStore) -> Result<u64, StoreError> {
    let item = store.get(&Position { seq: 0 }.key()).await?;
    let position: Option<Versioned<Position>> = item.as_ref().map(decode).transpose()?;
    Ok(position.map_or(0, |position| position.value.seq))
}

pub struct FeedCheckpoint {
    core: Core,
    store: Arc<SqliteStore>,
    saved_at: Duration,
}

impl FeedCheckpoint {
    pub fn new(core: Core, store: Arc<SqliteStore>) -> Self {
        let saved_at = core.clock().monotonic();
        Self { core, store, saved_at }
    }

    pub async fn reached(&mut self, seq: u64) {
        let now = self.core.clock().monotonic();
        if now.saturating_sub(self.saved_at) >= SAVE_INTERVAL {
            self.saved_at = now;
            self.save(seq).await;
        }
    }

    /// A failure is harmless: more changes are read again at the next start.
    pub async fn save(&self, seq: u64) {
        let position = Position { seq };
        let expect = match self.store.get(&position.key()).await {
            Ok(Some(item)) => Precondition::Version(item.version),
            Ok(None) => Precondition::Absent,
            Err(_) => return,
        };
        let writes = vec![Write::Put { item: encode(&position, None), expect }];
        // Only one attempt, because recording waits for it.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Ok(Ok(())) => {}
            Ok(Err(conflict)) => {
                tracing::debug!(
                    "the feed's position could not be saved: conflict on {}",
                    conflict.key
                );
                return;
            }
            Err(error) => {
                tracing::debug!("the feed's position could not be saved: {error}");
                return;
            }
        }
        // The router reads from memory and needs no old changes.
        if let Err(error) = self.store.trim_changes(seq, TRIM_LIMIT).await {
            tracing::debug!("old changes could not be deleted yet: {error}");
        }
    }
}
