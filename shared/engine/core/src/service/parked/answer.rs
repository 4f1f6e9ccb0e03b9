//! The sweeper's requests for a replay, and the recorder's answers.

use std::sync::Arc;
use std::time::Duration;

use watchbill_domain::{TenantId, Timestamp};

use super::{ANSWER_WITHIN, CONFLICTS, GROUP, MAX_TENANT_WAIT, Parking, Replayed};
use super::{clean, put, read::Parked, wait};
use crate::ports::{Item, Key, Precondition, Write};
use crate::repo::{
    self, ParkedKey, ParkedTenant, Versioned, parked_tenant_key, parked_tenant_key_aside,
};
use crate::service::ServiceError;

impl Parking {
    /// Requests a replay on behalf of the sweeper: the write itself is the request.
    pub async fn ask(&self, item: &Item) -> Result<(), ServiceError> {
        let Some(tenant) = repo::tenant_of(&item.key) else { return Ok(()) };
        let aside = item.key == parked_tenant_key_aside(&tenant);
        let instead = |now| ParkedTenant::instead(&tenant, now);
        let before = self.read_or_instead(item, aside, instead)?;
        self.ask_of(&before).await
    }

    /// The same where the store cannot read the item: an item aside makes the request, and is
    /// due by itself from then on.
    pub async fn ask_past_unreadable(&self, key: &Key) -> Result<(), ServiceError> {
        let tenant = repo::tenant_of(key).filter(|tenant| parked_tenant_key(tenant) == *key);
        let Some(tenant) = tenant else { return Ok(()) };
        match self.tenant(&tenant).await? {
            Some(of) if of.version == 0 => self.ask_of(&of).await,
            _ => Ok(()),
        }
    }

    async fn ask_of(&self, before: &Versioned<ParkedTenant>) -> Result<(), ServiceError> {
        let mut of = before.value.clone();
        if !of.is_asked() {
            of.asked = of.answered + 1;
        }
        of.next = self.context.clock().now().plus(ANSWER_WITHIN);
        // A concurrent writer has asked, answered or parked more: its write sets the next due time.
        self.context.transact(vec![put(&of, Some(before))]).await?.ok();
        Ok(())
    }

    /// Stores the result of a replay.
    pub async fn answer(
        &self,
        tenant: &TenantId,
        asked: u64,
        mut replayed: Replayed,
    ) -> Result<(), ServiceError> {
        for some in replayed.done.chunks(GROUP) {
            replayed.more |= !self.settle(tenant, some).await?;
        }
        for (before, after) in &replayed.again {
            // On a conflict, further changes have been parked meanwhile. The next replay
            // handles them.
            replayed.more |= self.context.transact(vec![put(after, Some(before))]).await?.is_err();
        }
        for tries in 0..CONFLICTS {
            self.pause(tries).await;
            let Some(before) = self.tenant(tenant).await? else { return Ok(()) };
            let mut of = before.value.clone();
            of.answered = of.answered.max(asked);
            of.unpublished &= !replayed.published;
            let now = self.context.clock().now();
            self.count(&mut of, now).await?;
            if !of.is_open() {
                if self.context.transact(vec![emptied(&of, &before)]).await?.is_ok() {
                    tracing::info!(%tenant, "all parked changes are recorded");
                    return Ok(());
                }
                continue;
            }
            of.failures = if replayed.progress { 0 } else { of.failures.saturating_add(1) };
            of.next = now.plus(wait(of.failures, MAX_TENANT_WAIT));
            if replayed.more && replayed.progress {
                // The recorder continues by itself.
                of.asked = of.answered + 1;
                of.next = now.plus(ANSWER_WITHIN);
            }
            if let Some(reason) = &replayed.reason {
                of.reason = clean(reason);
            }
            if self.context.transact(vec![put(&of, Some(&before))]).await?.is_ok() {
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Where the count is unknown, the list shows when nothing is parked any more. Until then
    /// replays for the tenant are requested.
    async fn count(&self, of: &mut ParkedTenant, now: Timestamp) -> Result<(), ServiceError> {
        let Some(from) = of.uncounted else { return Ok(()) };
        if now >= from && self.is_list_empty(&of.tenant).await? {
            (of.keys, of.uncounted) = (0, None);
        }
        Ok(())
    }

    /// Removes finished items. Returns `false` where something was added meanwhile and stays.
    async fn settle(
        &self,
        tenant: &TenantId,
        done: &[Versioned<ParkedKey>],
    ) -> Result<bool, ServiceError> {
        let partitions: Vec<Arc<str>> =
            done.iter().map(|parked| parked.value.partition.clone()).collect();
        for tries in 0..CONFLICTS {
            self.pause(tries).await;
            let now = self.find(tenant, &partitions).await?;
            let same = done
                .iter()
                .zip(&now)
                .filter(|(done, now)| now.as_ref().is_some_and(|now| now.version == done.version));
            let mut writes: Vec<Write> = same
                .map(|(done, _)| {
                    let (first, unsent, unsent_from) = (None, Vec::new(), None);
                    let none = ParkedKey { first, unsent, unsent_from, ..done.value.clone() };
                    emptied(&none, done)
                })
                .collect();
            let open = now.iter().flatten().filter(|now| now.value.is_open()).count();
            let all = writes.len() == open;
            if writes.is_empty() {
                return Ok(all);
            }
            let Some(before) = self.tenant(tenant).await? else { return Ok(all) };
            let mut of = before.value.clone();
            of.keys = of.keys.saturating_sub(writes.len() as u64);
            writes.push(put(&of, Some(&before)));
            if self.context.transact(writes).await?.is_ok() {
                return Ok(all);
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }
}

/// Nothing is parked any more. An item aside is kept to record that, or the unreadable one
/// would count again.
fn emptied<E: Parked>(none: &E, before: &Versioned<E>) -> Write {
    if none.is_aside() {
        return put(none, Some(before));
    }
    Write::Delete { key: none.key(), expect: Precondition::Version(before.version) }
}
