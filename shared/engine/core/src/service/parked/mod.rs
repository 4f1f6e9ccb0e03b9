//! Parking: changes that cannot be recorded or sent now are kept by key, so that a fault of one
//! tenant or one item does not block the others.
//!
//! The recorder parks and replays, the sweeper requests replays with backoff, and health checks
//! read the summary. See [`ParkedKey`] and [`ParkedTenant`] for the stored form.
//!
//! A parked item may itself be unreadable, which must not block the feed either. It is replaced
//! by one that treats every change as missing: under its own key where the store can replace
//! it, otherwise under a key aside.
//!
//! - `read`: reads what is parked, including the unreadable. `answer`: replay requests and
//!   their results.

mod answer;
mod read;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use watchbill_domain::{TenantId, Timestamp};
use watchbill_governance::RecordKind;
use watchbill_redact as redact;

use super::records::{NewAuditRecord, SYSTEM, record_write};
use super::{Context, ServiceError};
use crate::ports::{Precondition, Write};
use crate::repo::{self, ParkedKey, ParkedTenant, Versioned, encode};

/// Keys that one commit parks or settles, next to the tenant's own item: a transaction of 25
/// writes stays far below DynamoDB's limits and rarely conflicts.
const GROUP: usize = 24;
/// How often a conflicting commit is rebuilt, and the base of the growing random pause before
/// it, so that two writers do not collide again.
const CONFLICTS: u32 = 16;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Delay of the first replay; doubles with each one without progress.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const MAX_TENANT_WAIT: Duration = Duration::from_secs(15 * 60);
const MAX_KEY_WAIT: Duration = Duration::from_secs(6 * 3_600);
/// A replay request that is not answered within this is repeated.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The maximum time that a list lags behind commits.
const LIST_LAG: Duration = Duration::from_secs(60);
/// Maximum stored length of a reason, bytes.
const MAX_REASON: usize = 500;

/// The changes of one item to be parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToPark {
    pub partition: Arc<str>,
    /// The first unrecorded version, if there is one.
    pub first: Option<u64>,
    pub last: u64,
    /// The ledger batch whose events of this item were not sent, if there is one.
    pub unsent: Option<u64>,
}

/// The result of a replay.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Items that are recorded and sent.
    pub done: Vec<Versioned<ParkedKey>>,
    /// Items that stay parked, before and after the replay.
    pub again: Vec<(Versioned<ParkedKey>, ParkedKey)>,
    /// All batches of the ledger are published.
    pub published: bool,
    /// More could be replayed right away.
    pub more: bool,
    /// Something was recorded or sent.
    pub progress: bool,
    /// Why the rest could not be replayed, if known.
    pub reason: Option<String>,
}

/// Parked changes over all tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedSummary {
    /// Items with parked changes.
    pub items: u64,
    /// Tenants with parked changes, or with events that the bus does not accept.
    pub tenants: u64,
    /// Since when the oldest one has waited.
    pub since: Option<Timestamp>,
}

/// Parks changes and settles them. Cheap to clone.
#[derive(Clone)]
pub struct Parking {
    context: Context,
}

impl Parking {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Parks changes, or adds them to what is parked of their item. Durable when it returns.
    /// Each item may be in `all` once.
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
        for tries in 0..CONFLICTS {
            self.pause(tries).await;
            let now = self.context.clock().now();
            let parked = self.find(tenant, &partitions).await?;
            let is_new = |found: &Option<Versioned<ParkedKey>>| {
                found.as_ref().is_none_or(|found| !found.value.is_open())
            };
            let new = parked.iter().filter(|found| is_new(found)).count();
            let mut writes: Vec<Write> = some
                .iter()
                .zip(&parked)
                .filter_map(|(of, found)| of.write(tenant, found.as_ref(), now, reason))
                .collect();
            let mut first = false;
            if new > 0 {
                let before = self.tenant(tenant).await?;
                let mut of = ParkedTenant::open(before.as_ref(), tenant, now, reason);
                first = before.as_ref().is_none_or(|before| !before.value.is_open());
                of.keys += new as u64;
                of.uncounted = of.uncounted.map(|_| now.plus(LIST_LAG));
                writes.push(put(&of, before.as_ref()));
            }
            if writes.is_empty() {
                return Ok(());
            }
            if self.context.transact(writes).await?.is_ok() {
                if first {
                    tracing::error!(
                        %tenant,
                        "changes can't be recorded and are parked: {reason}"
                    );
                }
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Random pause before a conflicting commit is rebuilt.
    async fn pause(&self, tries: u32) {
        if tries > 0 {
            let most = CONFLICT_PAUSE * tries.min(8);
            let random = (self.context.entropy().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            self.context.clock().sleep(most.mul_f64(random)).await;
        }
    }

    /// Marks that batches of the tenant's ledger are still to be published.
    pub async fn hold_events(&self, tenant: &TenantId, reason: &str) -> Result<(), ServiceError> {
        for tries in 0..CONFLICTS {
            self.pause(tries).await;
            let now = self.context.clock().now();
            let before = self.tenant(tenant).await?;
            if before.as_ref().is_some_and(|before| before.value.unpublished) {
                return Ok(());
            }
            let mut of = ParkedTenant::open(before.as_ref(), tenant, now, &clean(reason));
            of.unpublished = true;
            if self.context.transact(vec![put(&of, before.as_ref())]).await?.is_ok() {
                tracing::error!(
                    %tenant,
                    "events are recorded but can't be published yet: {}",
                    of.reason
                );
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Rewrites a parked item. Returns `None` on a conflict.
    pub async fn update(
        &self,
        before: &Versioned<ParkedKey>,
        after: &ParkedKey,
    ) -> Result<Option<Versioned<ParkedKey>>, ServiceError> {
        let written = self.context.transact(vec![put(after, Some(before))]).await?;
        let version = before.version + 1;
        let unknown = before.unknown.clone();
        Ok(written.ok().map(|()| Versioned { value: after.clone(), version, unknown, due: None }))
    }

    /// The item was deleted or has expired before its parked changes were recorded; the ledger
    /// documents the loss.
    pub async fn tell_lost(
        &self,
        tenant: &TenantId,
        partition: &str,
        first: u64,
    ) -> Result<(), ServiceError> {
        let text = format!(
            "unrecorded changes of {partition} from version {first} on are lost: the item was \
             deleted or expired before they were recorded"
        );
        tracing::error!(%tenant, "{text}");
        let first = first.to_string();
        let loss = NewAuditRecord {
            kind: RecordKind::ChangesLost,
            of: &[partition, &first],
            subject: partition,
            text,
            details: json!({ "partition": partition, "first": first }),
        };
        let record = loss.record(&self.context, tenant, SYSTEM);
        // On a conflict the record exists already.
        self.context.transact(vec![record_write(&record)]).await?.ok();
        Ok(())
    }
}

impl ToPark {
    /// `None` where all of it is parked already.
    fn write(
        &self,
        tenant: &TenantId,
        found: Option<&Versioned<ParkedKey>>,
        now: Timestamp,
        reason: &str,
    ) -> Option<Write> {
        let mut of = match found {
            Some(found) if found.value.is_open() => found.value.clone(),
            // No item, or one aside that only marks an unreadable one.
            _ => ParkedKey {
                first: None,
                unsent_from: None,
                aside: found.is_some_and(|found| found.value.aside),
                reason: reason.to_owned(),
                ..ParkedKey::instead(tenant, &self.partition, now)
            },
        };
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
            uncounted: None,
            aside: false,
            asked: 0,
            answered: 0,
            failures: 0,
            next: now.plus(FIRST_WAIT),
            reason: reason.to_owned(),
        }
    }

    /// The existing item, or a new one where nothing is parked.
    fn open(
        before: Option<&Versioned<Self>>,
        tenant: &TenantId,
        now: Timestamp,
        reason: &str,
    ) -> Self {
        match before {
            Some(before) if before.value.is_open() => before.value.clone(),
            _ => {
                let aside = before.is_some_and(|before| before.value.aside);
                Self { aside, ..Self::new(tenant, now, reason) }
            }
        }
    }
}

impl ParkedKey {
    /// The item after a failed replay.
    #[must_use]
    pub fn failed(mut self, now: Timestamp, reason: &str) -> Self {
        self.failures = self.failures.saturating_add(1);
        self.next = now.plus(wait(self.failures, MAX_KEY_WAIT));
        self.reason = clean(reason);
        self
    }
}

/// The delay after this many consecutive failures.
fn wait(failures: u32, most: Duration) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(most)
}

/// A replacement for an unreadable item that is not stored yet has version 0.
fn put<E: repo::Entity>(entity: &E, before: Option<&Versioned<E>>) -> Write {
    let expect = match before {
        None | Some(Versioned { version: 0, .. }) => Precondition::Absent,
        Some(before) => Precondition::Version(before.version),
    };
    let unknown = before.and_then(|before| before.unknown.as_deref());
    Write::Put { item: encode(entity, unknown), expect }
}

/// The reason is displayed: it is redacted and shortened.
fn clean(reason: &str) -> String {
    let mut text = redact::text(reason).into_owned();
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
