//! The publish position of a tenant's ledger and where it is stored, so that no recorder repeats
//! what another has published.
//!
//! A ledger batch contains the position at the time it was appended, so not itself. The current
//! position is stored with the task counts, which are saved at the end of most calls, or else in
//! an item of its own. If a process dies after publishing and before saving, what that one call
//! published is repeated. A process keeps the position in memory even when an error discards its
//! other cached state. Where several recorders share a ledger, each saves the position right
//! after publishing, and reads it before it publishes others' batches.

use std::sync::atomic::Ordering;
use std::time::Duration;

use watchbill_core::ports::{Precondition, Write};
use watchbill_core::repo::{Projection, Versioned, decode, encode, fold_key};
use watchbill_core::service::Core;

use crate::error::RecordError;
use crate::tenant::TenantRecorder;

/// The name of the separate item for the position.
const PUBLISHED_FOLD: &str = "published";

impl TenantRecorder {
    /// Reads the furthest position from all sources.
    pub async fn find_place(&mut self, core: &Core) -> Result<(), RecordError> {
        let mut stored = self.publishing.kept.max(self.projections.published());
        let known = self.head.published.max(self.sent.load(Ordering::Relaxed));
        if known.max(stored) < self.head.seq
            && let Some(kept) = self.kept_place(core).await?
        {
            stored = stored.max(kept.value.seq_applied);
        }
        self.head.published = known.max(stored).min(self.head.seq);
        self.publishing.kept = stored.min(self.head.seq);
        Ok(())
    }

    /// The store now has the current position.
    pub fn note_place(&mut self) {
        self.publishing.kept = self.head.published;
    }

    /// Remembers the position for this process.
    pub fn note_sent(&self) {
        self.sent.fetch_max(self.head.published, Ordering::Relaxed);
    }

    /// Saves the task counts, with the position.
    pub async fn save_stats(&mut self, core: &Core) -> Result<(), RecordError> {
        let kept = self.projections.save_stats(core, self.head.seq, self.head.published).await;
        match kept {
            Ok(true) => self.note_place(),
            Ok(false) | Err(_) => self.keep_place_if_unknown(core).await,
        }
        kept.map(drop)
    }

    /// Saves the projections with the batch they include, and the position.
    pub async fn save(&mut self, core: &Core) -> Result<(), RecordError> {
        let kept = self.projections.save(core, self.head.seq, self.head.published).await;
        match kept {
            Ok(true) => self.note_place(),
            Ok(false) | Err(_) => self.keep_place_if_unknown(core).await,
        }
        kept.map(drop)
    }

    pub async fn keep_place_if_unknown(&mut self, core: &Core) {
        if self.head.published > self.publishing.kept {
            self.keep_place(core).await;
        }
    }

    async fn kept_place(&self, core: &Core) -> Result<Option<Versioned<Projection>>, RecordError> {
        let item = core.store().get(&fold_key(&self.tenant, PUBLISHED_FOLD)).await;
        let item = core.context().past_unreadable(item)?.flatten();
        // Without the position, more is published again under the same ids.
        Ok(item.and_then(|item| decode(&item).ok()))
    }

    /// Saves the position. A failure loses nothing: repeated events have the same ids.
    pub async fn keep_place(&mut self, core: &Core) {
        let Ok(before) = self.kept_place(core).await else { return };
        if before.as_ref().is_some_and(|kept| kept.value.seq_applied >= self.head.published) {
            return self.note_place();
        }
        let place = Projection {
            tenant: self.tenant.clone(),
            name: PUBLISHED_FOLD.to_owned(),
            seq_applied: self.head.published,
            state: serde_json::Value::Null,
        };
        let expect =
            before.map_or(Precondition::Absent, |before| Precondition::Version(before.version));
        let writes = vec![Write::Put { item: encode(&place, None), expect }];
        // Tried once, because recording continues without it.
        if let Ok(Ok(())) = core.context().transact_within(writes, Duration::ZERO).await {
            self.note_place();
        }
    }
}
