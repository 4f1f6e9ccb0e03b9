//! Parking: changes that can't be recorded or sent now are kept by key, so that one tenant's
//! fault, or one item's, holds up nobody else.
//!
//! The recorder parks and replays, the sweeper asks for replays with back-off, and whoever shows
//! health reads the summary. See [`ParkedKey`] and [`ParkedTenant`] for what is stored.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::ServiceError;
use super::core::Core;
use super::records::{SYSTEM, Said, record_write};
use crate::domain::{TenantId, Timestamp};
use crate::govern::RecordKind;
use crate::ports::{Expect, Item, Key, ListRange, Query, WhichList, Write};
use crate::redact;
use crate::repo::{
    self, Entity as _, PARKED, ParkedKey, ParkedTenant, Versioned, decode, encode, parked_key,
    parked_tenant_key,
};

/// Keys that one commit parks or settles, beside the tenant's own item: a transaction of 25
/// writes stays far below DynamoDB's limits and meets few others.
const GROUP: usize = 24;
/// How often a commit that met another's is made anew.
const CONFLICTS: u32 = 16;
/// Tenants that a summary looks at.
const MAX_TENANTS: usize = 1_000;
/// Until the first replay; doubled with each that achieves nothing.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const MAX_TENANT_WAIT: Duration = Duration::from_secs(15 * 60);
const MAX_KEY_WAIT: Duration = Duration::from_secs(6 * 3_600);
/// A replay that was asked for and not answered within this is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of a reason that are kept.
const MAX_REASON: usize = 500;

/// What is to be parked of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToPark {
    pub partition: Arc<str>,
    /// The first version that is not recorded, if one is not.
    pub first: Option<u64>,
    pub last: u64,
    /// The ledger batch whose events of this item did not go out, if that is so.
    pub unsent: Option<u64>,
}

/// What a replay came to.
#[derive(Debug, Default)]
pub struct Replayed {
    /// These are recorded and sent.
    pub done: Vec<Versioned<ParkedKey>>,
    /// These stay parked, as the second has them.
    pub again: Vec<(Versioned<ParkedKey>, ParkedKey)>,
    /// All batches of the ledger are published.
    pub published: bool,
    /// There is more that could be replayed right away.
    pub more: bool,
    /// Something was recorded or sent.
    pub progress: bool,
    /// Why the rest could not be, if that is known.
    pub reason: Option<String>,
}

/// Parked changes over all tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedSummary {
    /// Items with parked changes.
    pub items: u64,
    /// Tenants with parked changes, or with events that the bus does not take.
    pub tenants: u64,
    /// Since when the one that waits longest has waited.
    pub since: Option<Timestamp>,
}

pub struct Parking<'c> {
    core: &'c Core,
}

impl Core {
    pub fn parking(&self) -> Parking<'_> {
        Parking { core: self }
    }
}

impl Parking<'_> {
    /// What is parked of these items, in the order asked; strongly consistent.
    pub async fn find(
        &self,
        tenant: &TenantId,
        partitions: &[Arc<str>],
    ) -> Result<Vec<Option<Versioned<ParkedKey>>>, ServiceError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = partitions.iter().map(|of| parked_key(tenant, of)).collect();
        let items = self.core.store().get_many(&keys).await?;
        items.iter().map(|item| Ok(item.as_ref().map(decode).transpose()?)).collect()
    }

    /// Parks changes, or joins them to what is parked of their item. Durable when it returns.
    /// Each item stands in `all` once.
    pub async fn park(
        &self,
        tenant: &TenantId,
        all: &[ToPark],
        reason: &str,
    ) -> Result<(), ServiceError> {
        for some in all.chunks(GROUP) {
            self.park_some(tenant, some, &clean(reason)).await?;
        }
        Ok(())
    }

    async fn park_some(
        &self,
        tenant: &TenantId,
        some: &[ToPark],
        reason: &str,
    ) -> Result<(), ServiceError> {
        let partitions: Vec<Arc<str>> = some.iter().map(|of| of.partition.clone()).collect();
        for _ in 0..CONFLICTS {
            let now = self.core.clock().now();
            let parked = self.find(tenant, &partitions).await?;
            let new = parked.iter().filter(|found| found.is_none()).count();
            let mut writes: Vec<Write> = some
                .iter()
                .zip(&parked)
                .filter_map(|(of, found)| of.write(tenant, found.as_ref(), now, reason))
                .collect();
            let mut first = false;
            if new > 0 {
                let before = self.tenant(tenant).await?;
                first = before.is_none();
                let mut of = before.as_ref().map_or_else(
                    || ParkedTenant::new(tenant, now, reason),
                    |before| before.value.clone(),
                );
                of.keys += new as u64;
                writes.push(put(&of, before.as_ref()));
            }
            if writes.is_empty() {
                return Ok(());
            }
            if self.core.commit(writes).await?.is_none() {
                if first {
                    tracing::error!(
                        %tenant,
                        "changes of tenant {tenant} can't be recorded and are parked: {reason}"
                    );
                }
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Keeps in mind that batches of the tenant's ledger are still to be published.
    pub async fn hold_events(&self, tenant: &TenantId, reason: &str) -> Result<(), ServiceError> {
        for _ in 0..CONFLICTS {
            let now = self.core.clock().now();
            let before = self.tenant(tenant).await?;
            if before.as_ref().is_some_and(|before| before.value.unpublished) {
                return Ok(());
            }
            let mut of = before.as_ref().map_or_else(
                || ParkedTenant::new(tenant, now, &clean(reason)),
                |before| before.value.clone(),
            );
            of.unpublished = true;
            if self.core.commit(vec![put(&of, before.as_ref())]).await?.is_none() {
                tracing::error!(
                    %tenant,
                    "events of tenant {tenant} are recorded and can't be sent yet: {}",
                    of.reason
                );
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    pub async fn tenant(
        &self,
        tenant: &TenantId,
    ) -> Result<Option<Versioned<ParkedTenant>>, ServiceError> {
        let item = self.core.store().get(&parked_tenant_key(tenant)).await?;
        Ok(item.as_ref().map(decode).transpose()?)
    }

    /// Parked items whose next try has come, the longest due first.
    pub async fn to_replay(
        &self,
        tenant: &TenantId,
        limit: usize,
    ) -> Result<Vec<Versioned<ParkedKey>>, ServiceError> {
        let after = Timestamp::from_millis(self.core.clock().now().millis() + 1);
        let query = Query {
            list: WhichList::Second,
            partition: repo::parked_list(tenant),
            range: ListRange { from: None, to: Some(after.sortable().into()) },
            descending: false,
            limit,
            cursor: None,
        };
        let page = self.core.store().query(query).await?;
        let items = self.core.store().get_many(&page.entries).await?;
        items.iter().flatten().map(|item| Ok(decode(item)?)).collect()
    }

    /// Writes a parked item anew. Nothing where somebody has written it meanwhile.
    pub async fn update(
        &self,
        before: &Versioned<ParkedKey>,
        after: &ParkedKey,
    ) -> Result<Option<Versioned<ParkedKey>>, ServiceError> {
        let conflict = self.core.commit(vec![put(after, Some(before))]).await?;
        let version = before.version + 1;
        let unknown = before.unknown.clone();
        Ok(conflict.is_none().then(|| Versioned {
            value: after.clone(),
            version,
            unknown,
            due: None,
        }))
    }

    /// The item is gone whose changes were parked: they are missing from the ledger for good,
    /// which the ledger itself says.
    pub async fn tell_lost(
        &self,
        tenant: &TenantId,
        partition: &str,
        first: u64,
    ) -> Result<(), ServiceError> {
        let text = format!(
            "changes of {partition} from version {first} on are not recorded: the item was \
             deleted or had expired before they could be"
        );
        tracing::error!(%tenant, "{text}");
        let first = first.to_string();
        let said = Said {
            kind: RecordKind::ChangesLost,
            of: &[partition, &first],
            subject: partition,
            text,
            details: json!({ "partition": partition, "first": first }),
        };
        let record = self.core.record(tenant, SYSTEM, said);
        // Told already where it is there.
        self.core.commit(vec![record_write(&record)]).await.map(drop)
    }

    /// Asks for a replay, by the sweeper: the change that this makes is the question.
    pub async fn ask(&self, item: &Item) -> Result<(), ServiceError> {
        let before = decode::<ParkedTenant>(item)?;
        let mut of = before.value.clone();
        if !of.is_asked() {
            of.asked += 1;
        }
        of.next = self.core.clock().now().plus(ANSWER_WITHIN);
        // Whoever was faster has asked, answered or parked more: it is due again by that.
        self.core.commit(vec![put(&of, Some(&before))]).await.map(drop)
    }

    /// Writes down what a replay came to.
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
            // A conflict: changes have joined meanwhile. They count for the next replay.
            replayed.more |= self.core.commit(vec![put(after, Some(before))]).await?.is_some();
        }
        for _ in 0..CONFLICTS {
            let Some(before) = self.tenant(tenant).await? else { return Ok(()) };
            let mut of = before.value.clone();
            of.answered = of.answered.max(asked);
            of.unpublished &= !replayed.published;
            if of.keys == 0 && !of.unpublished {
                let expect = Expect::Version(before.version);
                let gone = Write::Delete { key: of.key(), expect };
                if self.core.commit(vec![gone]).await?.is_none() {
                    tracing::info!(%tenant, "all parked changes of tenant {tenant} are recorded");
                    return Ok(());
                }
                continue;
            }
            let now = self.core.clock().now();
            of.failures = if replayed.progress { 0 } else { of.failures.saturating_add(1) };
            of.next = now.plus(wait(of.failures, MAX_TENANT_WAIT));
            if replayed.more && replayed.progress {
                // The recorder goes on by itself.
                of.asked = of.answered + 1;
                of.next = now.plus(ANSWER_WITHIN);
            }
            if let Some(reason) = &replayed.reason {
                of.reason = clean(reason);
            }
            if self.core.commit(vec![put(&of, Some(&before))]).await?.is_none() {
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Removes what is done. False where something has joined meanwhile and stays.
    async fn settle(
        &self,
        tenant: &TenantId,
        done: &[Versioned<ParkedKey>],
    ) -> Result<bool, ServiceError> {
        let partitions: Vec<Arc<str>> =
            done.iter().map(|parked| parked.value.partition.clone()).collect();
        for _ in 0..CONFLICTS {
            let now = self.find(tenant, &partitions).await?;
            let same = done
                .iter()
                .zip(&now)
                .filter(|(done, now)| now.as_ref().is_some_and(|now| now.version == done.version));
            let mut writes: Vec<Write> = same
                .map(|(done, _)| Write::Delete {
                    key: done.value.key(),
                    expect: Expect::Version(done.version),
                })
                .collect();
            let all = writes.len() == now.iter().flatten().count();
            if writes.is_empty() {
                return Ok(all);
            }
            let Some(before) = self.tenant(tenant).await? else { return Ok(all) };
            let mut of = before.value.clone();
            of.keys = of.keys.saturating_sub(writes.len() as u64);
            writes.push(put(&of, Some(&before)));
            if self.core.commit(writes).await?.is_none() {
                return Ok(all);
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// How much is parked, for health and alarms: a list, which may lag.
    pub async fn summary(&self) -> Result<ParkedSummary, ServiceError> {
        let query = Query {
            list: WhichList::First,
            partition: PARKED.into(),
            range: ListRange::default(),
            descending: false,
            limit: MAX_TENANTS,
            cursor: None,
        };
        let page = self.core.store().query(query).await?;
        let mut summary = ParkedSummary::default();
        for key in &page.entries {
            let Some(item) = self.core.store().get(key).await? else { continue };
            let of = decode::<ParkedTenant>(&item)?.value;
            summary.items += of.keys;
            summary.tenants += 1;
            summary.since = Some(summary.since.map_or(of.since, |since| since.min(of.since)));
        }
        Ok(summary)
    }
}

impl ToPark {
    /// None where all of it is parked already.
    fn write(
        &self,
        tenant: &TenantId,
        found: Option<&Versioned<ParkedKey>>,
        now: Timestamp,
        reason: &str,
    ) -> Option<Write> {
        let mut of = found.map_or_else(
            || ParkedKey {
                tenant: tenant.clone(),
                partition: self.partition.clone(),
                first: None,
                last: 0,
                unsent: Vec::new(),
                since: now,
                failures: 0,
                next: now,
                reason: reason.to_owned(),
            },
            |found| found.value.clone(),
        );
        of.first = of.first.into_iter().chain(self.first).min();
        of.last = of.last.max(self.last);
        if let Some(batch) = self.unsent
            && let Err(place) = of.unsent.binary_search(&batch)
        {
            of.unsent.insert(place, batch);
        }
        if found.is_some_and(|found| found.value == of) {
            return None;
        }
        Some(put(&of, found))
    }
}

impl ParkedTenant {
    fn new(tenant: &TenantId, now: Timestamp, reason: &str) -> Self {
        Self {
            tenant: tenant.clone(),
            since: now,
            keys: 0,
            unpublished: false,
            asked: 0,
            answered: 0,
            failures: 0,
            next: now.plus(FIRST_WAIT),
            reason: reason.to_owned(),
        }
    }
}

impl ParkedKey {
    /// The same after a replay that failed.
    #[must_use]
    pub fn failed(mut self, now: Timestamp, reason: &str) -> Self {
        self.failures = self.failures.saturating_add(1);
        self.next = now.plus(wait(self.failures, MAX_KEY_WAIT));
        self.reason = clean(reason);
        self
    }
}

/// After so many failures in a row.
fn wait(failures: u32, most: Duration) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(most)
}

fn put<E: repo::Entity>(entity: &E, before: Option<&Versioned<E>>) -> Write {
    let expect = before.map_or(Expect::Absent, |before| Expect::Version(before.version));
    let unknown = before.and_then(|before| before.unknown.as_deref());
    Write::Put { item: encode(entity, unknown), expect }
}

/// It is shown: without secrets, and not longer than someone reads.
fn clean(reason: &str) -> String {
    let mut text = redact::text(reason).into_owned();
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
