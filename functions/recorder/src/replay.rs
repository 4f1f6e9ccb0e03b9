//! Replays one tenant's parked changes when the sweeper requests it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use watchbill_core::ports::Key;
use watchbill_core::repo::{HEAD, ParkedKey, Versioned};
use watchbill_core::service::{Replayed, ServiceError};
use watchbill_domain::TenantId;

use crate::error::RecordError;
use crate::recorded::Changed;
use crate::tenant::Source;
use crate::{FailedChange, Recorder, State, Work};

/// Parked items per replay. If there are more, the replay requests the next one itself, so that
/// other tenants' changes come in between.
const MAX_ITEMS: usize = 64;

impl Recorder {
    /// Returns the number of new ledger entries. Items that fail stay parked with growing
    /// delays; an error of the whole tenant ends the replay.
    pub(crate) async fn replay(
        &self,
        state: &mut State,
        tenant: &TenantId,
    ) -> Result<usize, ServiceError> {
        let parking = self.core.parking();
        let Some(of) = parking.tenant(tenant).await? else { return Ok(0) };
        if !of.value.is_asked() {
            return Ok(0);
        }
        let mut replayed = Replayed::default();
        let recorded = match self.publish_parked(state, tenant, &mut replayed).await {
            Ok(()) => self.replay_items(state, tenant, &mut replayed).await?,
            Err(reason) => {
                replayed.reason = Some(reason);
                0
            }
        };
        parking.answer(tenant, of.value.asked, replayed).await?;
        Ok(recorded)
    }

    /// Publishes the ledger's batches that wait for the bus.
    async fn publish_parked(
        &self,
        state: &mut State,
        tenant: &TenantId,
        replayed: &mut Replayed,
    ) -> Result<(), String> {
        let before = state.tenants.get_mut(tenant).map(|recorder| {
            recorder.publish_now();
            recorder.head.published
        });
        self.work(state, tenant, Work::Publish).await.map_err(|fault| fault.to_string())?;
        let Some(recorder) = state.tenants.get(tenant) else { return Ok(()) };
        replayed.published = recorder.is_published();
        replayed.progress = before.is_none_or(|before| recorder.head.published > before);
        replayed.more = !replayed.published && replayed.progress;
        Ok(())
    }

    async fn replay_items(
        &self,
        state: &mut State,
        tenant: &TenantId,
        replayed: &mut Replayed,
    ) -> Result<usize, ServiceError> {
        let parked = self.core.parking().to_replay(tenant, MAX_ITEMS).await?;
        replayed.more |= parked.len() == MAX_ITEMS;
        let mut open = Vec::with_capacity(parked.len());
        for parked in parked {
            if self.is_over(state) {
                replayed.more = true;
                break;
            }
            let resending = self.resend(state, tenant, parked.clone(), replayed);
            match AssertUnwindSafe(resending).catch_unwind().await {
                Ok(resent) => open.extend(resent?),
                // Only this item failed: continue with the others.
                Err(panic) => {
                    self.try_later(parked, &RecordError::panicked(&*panic).to_string(), replayed)
                }
            }
        }
        let keys: Vec<Key> =
            open.iter().map(|of| Key::new(of.value.partition.clone(), HEAD)).collect();
        let items = self.core.context().get_each(&keys).await?;
        let (mut changes, mut by_key) = (Vec::new(), HashMap::new());
        for (of, item) in open.into_iter().zip(&items) {
            match (of.value.first, item) {
                (None, _) => self.finish(of, replayed),
                (Some(first), Ok(None)) => {
                    self.core.parking().tell_lost(tenant, &of.value.partition, first).await?;
                    self.finish(of, replayed);
                }
                (Some(first), Ok(Some(item))) => {
                    changes.push(Changed { item, first });
                    by_key.insert(item.key.partition.clone(), of);
                }
                (Some(_), Err(why)) => self.try_later(of, &why.to_string(), replayed),
            }
        }
        let attempted = self.attempt(state, tenant, changes, Source::Parked).await;
        replayed.progress |= attempted.recorded > 0;
        for FailedChange { change, reason, own } in attempted.failed {
            let of = by_key.remove(&change.item.key.partition);
            match of.filter(|_| own) {
                Some(of) => self.try_later(of, &reason, replayed),
                // An error of the whole tenant does not delay this item's retry.
                None => replayed.reason = Some(reason),
            }
        }
        for (_, of) in by_key {
            self.finish(of, replayed);
        }
        Ok(attempted.recorded)
    }

    /// Publishes an item's parked events. Returns `None` if more of it was parked meanwhile.
    async fn resend(
        &self,
        state: &State,
        tenant: &TenantId,
        parked: Versioned<ParkedKey>,
        replayed: &mut Replayed,
    ) -> Result<Option<Versioned<ParkedKey>>, ServiceError> {
        if !parked.value.holds_events() {
            return Ok(Some(parked));
        }
        let Some(recorder) = state.tenants.get(tenant) else { return Ok(None) };
        let mut after = parked.value.clone();
        let found = recorder.find_unsent(&self.core, &mut after, state.until).await;
        let sent = match found {
            Ok(()) => recorder.resend(&self.core, &self.bus, &after, state.until).await,
            Err(error) => Err(error),
        };
        let (done, failed) = match sent {
            Ok(sent) => sent,
            // Only this item's batch is unreadable: continue with the others.
            Err(ServiceError::Unreadable { key, reason }) => {
                let why = format!("{key} can't be read: {reason}");
                self.try_later(parked, &why, replayed);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        replayed.progress |= done > 0 || after.unsent_from != parked.value.unsent_from;
        after.unsent.drain(..done);
        let in_time = failed.is_some() || after.unsent.is_empty();
        if let Some(reason) = failed {
            after = after.failed(self.core.clock().now(), &reason);
            replayed.reason = Some(reason);
        }
        // Before more of the item is recorded: publishing of its next events depends on it.
        let kept = self.core.parking().update(&parked, &after).await?;
        // Changed meanwhile, or there are more batches to search or publish.
        let go_on = kept.is_none() || after.unsent_from.is_some() || !in_time;
        replayed.more |= go_on;
        Ok(kept.filter(|_| !go_on))
    }

    /// The item itself failed: retry it with a growing delay.
    fn try_later(&self, of: Versioned<ParkedKey>, reason: &str, replayed: &mut Replayed) {
        let after = of.value.clone().failed(self.core.clock().now(), reason);
        replayed.again.push((of, after));
        replayed.reason = Some(reason.to_owned());
    }

    /// The item is recorded: remove it, unless its events still wait.
    fn finish(&self, of: Versioned<ParkedKey>, replayed: &mut Replayed) {
        if !of.value.holds_events() {
            replayed.progress = true;
            replayed.done.push(of);
        } else if of.value.first.is_some() {
            let after = ParkedKey { first: None, ..of.value.clone() };
            replayed.again.push((of, after));
        }
    }
}
