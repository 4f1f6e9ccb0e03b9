//! How far the recorder has read the change feed. Kept now and then: what lies between is
//! read again at the next start and found in the ledger.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchbill_core::ports::{Expect, Key, Store as _, StoreError, Write};
use watchbill_core::repo::{Entity, Versioned, decode, encode};
use watchbill_core::service::Core;
use watchbill_sqlite::sqlite::SqliteStore;

/// The position is kept this often while there is work.
const EVERY: Duration = Duration::from_secs(2);
/// Groups of old changes forgotten at a time.
const TRIM: usize = 2_000;

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

pub struct Keeper {
    core: Core,
    store: Arc<SqliteStore>,
    kept_at: Duration,
}

impl Keeper {
    pub fn new(core: Core, store: Arc<SqliteStore>) -> Self {
        let kept_at = core.clock().monotonic();
        Self { core, store, kept_at }
    }

    pub async fn reached(&mut self, seq: u64) {
        let now = self.core.clock().monotonic();
        if now.saturating_sub(self.kept_at) >= EVERY {
            self.kept_at = now;
            self.save(seq).await;
        }
    }

    /// Not being able to is no fault: more is read again, that is all.
    pub async fn save(&self, seq: u64) {
        let position = Position { seq };
        let expect = match self.store.get(&position.key()).await {
            Ok(Some(item)) => Expect::Version(item.version),
            Ok(None) => Expect::Absent,
            Err(_) => return,
        };
        let writes = vec![Write::Put { item: encode(&position, None), expect }];
        // Tried once: recording waits for it.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Ok(Ok(())) => {}
            Ok(Err(conflict)) => {
                tracing::debug!("the feed's position is not kept: conflict on {}", conflict.key);
                return;
            }
            Err(error) => {
                tracing::debug!("the feed's position is not kept: {error}");
                return;
            }
        }
        // The router reads from memory and needs no old changes.
        if let Err(error) = self.store.trim_changes(seq, TRIM).await {
            tracing::debug!("old changes are not forgotten yet: {error}");
        }
    }
}
