//! Parking: changes that can't be recorded or sent now are kept by key, so that one tenant's
//! fault, or one item's, holds up nobody else.
//!
//! The recorder parks and replays, the sweeper asks for replays with back-off, and whoever shows
//! health reads the summary. See [`ParkedKey`] and [`ParkedTenant`] for what is stored.
//!
//! What is parked may itself be unreadable, and that must not hold the feed either. It is put in
//! order again by taking everything for missing, under its own key where the store can replace
//! it, else beside it.
//!
//! - `read`: what is parked, also where it can't be read. `answer`: questions, and what came of them.

mod answer;
mod read;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use watchbill_domain::{TenantId, Timestamp};
use watchbill_governance::RecordKind;
use watchbill_redact as redact;

use super::records::{SYSTEM, Said, record_write};
use super::{Context, ServiceError};
use crate::ports::{Expect, Write};
use crate::repo::{self, ParkedKey, ParkedTenant, Versioned, encode};

/// Keys that one commit parks or settles, beside the tenant's own item: a transaction of 25
/// writes stays far below DynamoDB's limits and meets few others.
const GROUP: usize = 24;
/// How often a commit that met another's is made anew, and how long it waits before at the most,
/// by its tries: two that meet are not to meet again.
const CONFLICTS: u32 = 16;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Until the first replay; doubled with each that achieves nothing.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const MAX_TENANT_WAIT: Duration = Duration::from_secs(15 * 60);
const MAX_KEY_WAIT: Duration = Duration::from_secs(6 * 3_600);
/// A replay that was asked for and not answered within this is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// So far, at the most, a list lags behind what was committed.
const LIST_LAG: Duration = Duration::from_secs(60);
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

/// Parks changes and settles them. Cheap to clone.
#[derive(Clone)]
pub struct Parking {
    context: Context,
}

impl Parking {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
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
                        "changes of tenant {tenant} can't be recorded and are parked: {reason}"
                    );
                }
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Before a commit that met others so often is made anew.
    async fn pause(&self, tries: u32) {
        if tries > 0 {
            let most = CONFLICT_PAUSE * tries.min(8);
            let random = (self.context.entropy().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            self.context.clock().sleep(most.mul_f64(random)).await;
        }
    }

    /// Keeps in mind that batches of the tenant's ledger are still to be published.
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
                    "events of tenant {tenant} are recorded and can't be sent yet: {}",
                    of.reason
                );
                return Ok(());
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }

    /// Writes a parked item anew. Nothing where somebody has written it meanwhile.
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

    /// The item is gone whose changes were parked: they are missing from the ledger for good,
    /// which the ledger itself says.
    pub async fn tell_lost(
        &self,
        tenant: &TenantId,
        partition: &str,
        first: u64,
    ) -> Result<(), ServiceError> {
        let text = format!(
            "changes of {partition} from version {first} on that are not recorded are lost: the \
             item was deleted or had expired before they could be"
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
        let record = said.record(&self.context, tenant, SYSTEM);
        // Told already where it is there.
        self.context.transact(vec![record_write(&record)]).await?.ok();
        Ok(())
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
        let mut of = match found {
            Some(found) if found.value.is_open() => found.value.clone(),
            // Nothing is parked of it: there is none, or one that says so beside another.
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

    /// What there is, or a new one where nothing is parked.
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

/// What was made in the place of something unreadable for which the store has no room yet has
/// version 0.
fn put<E: repo::Entity>(entity: &E, before: Option<&Versioned<E>>) -> Write {
    let expect = match before {
        None | Some(Versioned { version: 0, .. }) => Expect::Absent,
        Some(before) => Expect::Version(before.version),
    };
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
