//! How far a tenant's ledger was published, and where that is kept, so that no recorder sends again
//! what another has sent.
//!
//! A batch of the ledger says how far publishing had come when it was appended, and so nothing of
//! itself. The place stands beside the counts of tasks, which are kept at the end of most calls
//! anyhow; where they are not, in an item of its own. Whoever dies after sending, before the place
//! is kept, has sent again what that one call sent. Within a process the place is remembered,
//! whatever else is not believed any more after a fault. Where several are at one ledger, each keeps
//! it right after sending, and looks before it sends what others appended.

use std::sync::atomic::Ordering;
use std::time::Duration;

use watchbill_core::ports::{Expect, Write};
use watchbill_core::repo::{Fold, Versioned, decode, encode, fold_key};
use watchbill_core::service::Core;

use crate::fault::Fault;
use crate::tenant::TenantRecorder;

/// The fold that says it where the counts don't.
const PUBLISHED_FOLD: &str = "published";

impl TenantRecorder {
    /// The furthest that anything says.
    pub async fn find_place(&mut self, core: &Core) -> Result<(), Fault> {
        let mut stored = self.publishing.kept.max(self.folds.published());
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

    /// The place as it is now stands in the store.
    pub fn note_place(&mut self) {
        self.publishing.kept = self.head.published;
    }

    /// This process has sent so much.
    pub fn note_sent(&self) {
        self.sent.fetch_max(self.head.published, Ordering::Relaxed);
    }

    /// Keeps the counts of tasks, and the place with them.
    pub async fn save_stats(&mut self, core: &Core) -> Result<(), Fault> {
        let kept = self.folds.save_stats(core, self.head.seq, self.head.published).await;
        match kept {
            Ok(true) => self.note_place(),
            Ok(false) | Err(_) => self.keep_place_if_unknown(core).await,
        }
        kept.map(drop)
    }

    /// Keeps the folds with the batch they go up to, and the place.
    pub async fn save(&mut self, core: &Core) -> Result<(), Fault> {
        let kept = self.folds.save(core, self.head.seq, self.head.published).await;
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

    async fn kept_place(&self, core: &Core) -> Result<Option<Versioned<Fold>>, Fault> {
        let item = core.store().get(&fold_key(&self.tenant, PUBLISHED_FOLD)).await;
        let item = core.context().past_unreadable(item)?.flatten();
        // Without it more is published again, under the same ids.
        Ok(item.and_then(|item| decode(&item).ok()))
    }

    /// Nothing is lost where this fails: what is published again bears the same ids.
    pub async fn keep_place(&mut self, core: &Core) {
        let Ok(before) = self.kept_place(core).await else { return };
        if before.as_ref().is_some_and(|kept| kept.value.seq_applied >= self.head.published) {
            return self.note_place();
        }
        let place = Fold {
            tenant: self.tenant.clone(),
            name: PUBLISHED_FOLD.to_owned(),
            seq_applied: self.head.published,
            state: serde_json::Value::Null,
        };
        let expect = before.map_or(Expect::Absent, |before| Expect::Version(before.version));
        let writes = vec![Write::Put { item: encode(&place, None), expect }];
        // Tried once, because recording goes on without it.
        if let Ok(Ok(())) = core.context().transact_within(writes, Duration::ZERO).await {
            self.note_place();
        }
    }
}
