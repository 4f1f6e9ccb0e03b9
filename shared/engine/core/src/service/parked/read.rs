//! What is parked, also where it can't be read: then everything of the item counts as missing.

use std::sync::Arc;

use watchbill_domain::{TenantId, Timestamp};

use super::{LIST_LAG, ParkedSummary, Parking, clean};
use crate::ports::{Item, Key, ListRange, Query, StoreError, WhichList};
use crate::repo::{
    self, Entity, PARKED, ParkedKey, ParkedTenant, Versioned, decode, parked_key, parked_key_aside,
    parked_tenant_key, parked_tenant_key_aside,
};
use crate::service::ServiceError;
use crate::service::unreadable::ReadItem;

/// Tenants that a summary looks at.
const MAX_TENANTS: usize = 1_000;
/// Items of such a page, at least.
const MIN_PAGE: usize = 64;
/// Pages of the list that are looked through for items to replay: those that the store can't
/// read stay at its beginning, until somebody removes them.
const MAX_PAGES: usize = 16;

impl Parking {
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
        let items = self.context.get_each(&keys).await?;
        let mut found = Vec::with_capacity(items.len());
        for (partition, item) in partitions.iter().zip(items) {
            let instead = |now| ParkedKey::instead(tenant, partition, now);
            let aside = parked_key_aside(tenant, partition);
            found.push(self.in_order(item, aside, instead).await?);
        }
        Ok(found)
    }

    pub async fn tenant(
        &self,
        tenant: &TenantId,
    ) -> Result<Option<Versioned<ParkedTenant>>, ServiceError> {
        let read =
            self.context.readable(self.context.store().get(&parked_tenant_key(tenant)).await)?;
        let instead = |now| ParkedTenant::instead(tenant, now);
        self.in_order(read, parked_tenant_key_aside(tenant), instead).await
    }

    /// What stands there; in the place of what can't be read, one by which everything is missing.
    /// Where the store can't read it, one beside it, which may be there already.
    async fn in_order<E: Parked>(
        &self,
        read: ReadItem,
        aside: Key,
        instead: impl Fn(Timestamp) -> E,
    ) -> Result<Option<Versioned<E>>, ServiceError> {
        let why = match read {
            Ok(None) => return Ok(None),
            Ok(Some(item)) => return Ok(Some(self.read_or_instead(&item, false, instead)?)),
            Err(why) => why,
        };
        match self.context.readable(self.context.store().get(&aside).await)? {
            Ok(None) => Ok(Some(self.made(instead, (0, true), &why))),
            Ok(Some(item)) => Ok(Some(self.read_or_instead(&item, true, instead)?)),
            Err(why) => Err(why.into()),
        }
    }

    /// What an item says; one by which everything is missing where that can't be read. Written,
    /// that one takes its place.
    pub(super) fn read_or_instead<E: Parked>(
        &self,
        item: &Item,
        aside: bool,
        instead: impl Fn(Timestamp) -> E,
    ) -> Result<Versioned<E>, StoreError> {
        let read = self.context.readable(decode(item))?;
        Ok(read.unwrap_or_else(|why| self.made(instead, (item.version, aside), &why)))
    }

    fn made<E: Parked>(
        &self,
        instead: impl Fn(Timestamp) -> E,
        (version, aside): (u64, bool),
        why: &StoreError,
    ) -> Versioned<E> {
        let reason = format!("what was parked before can't be read: {why}");
        let value = instead(self.context.clock().now()).told(clean(&reason), aside);
        Versioned { value, version, unknown: None, due: None }
    }

    /// Parked items whose next try has come, the longest due first.
    pub async fn to_replay(
        &self,
        tenant: &TenantId,
        limit: usize,
    ) -> Result<Vec<Versioned<ParkedKey>>, ServiceError> {
        let after = Timestamp::from_millis(self.context.clock().now().millis() + 1);
        let range = ListRange { from: None, to: Some(after.sortable().into()) };
        Ok(self.listed(tenant, range, limit).await?.0)
    }

    /// Whether the list shows nothing parked of a tenant any more.
    pub(super) async fn is_list_empty(&self, tenant: &TenantId) -> Result<bool, ServiceError> {
        let (found, all) = self.listed(tenant, ListRange::default(), 1).await?;
        Ok(found.is_empty() && all)
    }

    /// So many of the list, and whether it was looked through to its end.
    async fn listed(
        &self,
        tenant: &TenantId,
        range: ListRange,
        limit: usize,
    ) -> Result<(Vec<Versioned<ParkedKey>>, bool), ServiceError> {
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let query = Query {
                list: WhichList::Second,
                partition: repo::parked_list(tenant),
                range: range.clone(),
                descending: false,
                limit: (limit - found.len()).max(MIN_PAGE),
                cursor,
            };
            let page = self.context.store().query(query).await?;
            found.extend(self.open_of(tenant, &page.entries).await?);
            cursor = page.next;
            if cursor.is_none() || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok((found, cursor.is_none()))
    }

    /// What is parked under these keys of the list.
    async fn open_of(
        &self,
        tenant: &TenantId,
        keys: &[Key],
    ) -> Result<Vec<Versioned<ParkedKey>>, ServiceError> {
        let mut found = Vec::with_capacity(keys.len());
        for (key, item) in keys.iter().zip(self.context.get_each(keys).await?) {
            let Some(partition) = repo::parked_partition(key) else { continue };
            let instead = |now| ParkedKey::instead(tenant, &partition, now);
            let aside = parked_key_aside(tenant, &partition);
            let is_aside = *key == aside;
            let parked = match item {
                Ok(None) => None,
                Ok(Some(item)) => Some(self.read_or_instead(&item, is_aside, instead)?),
                Err(_) if is_aside => None,
                // What stands beside it already is in the list by itself.
                Err(why) => {
                    let of = self.in_order(Err(why), aside, instead).await?;
                    of.filter(|of| of.version == 0)
                }
            };
            found.extend(parked.filter(|of| of.value.is_open()));
        }
        Ok(found)
    }

    /// How much is parked, for health and alarms: a list, which may lag. Of a tenant whose count
    /// can't be read one item counts.
    pub async fn summary(&self) -> Result<ParkedSummary, ServiceError> {
        let query = Query {
            list: WhichList::First,
            partition: PARKED.into(),
            range: ListRange::default(),
            descending: false,
            limit: MAX_TENANTS,
            cursor: None,
        };
        let page = self.context.store().query(query).await?;
        let mut summary = ParkedSummary::default();
        for (key, item) in page.entries.iter().zip(self.context.get_each(&page.entries).await?) {
            let Some(tenant) = repo::tenant_of(key) else { continue };
            let instead = |now| ParkedTenant::instead(&tenant, now);
            let aside = parked_tenant_key_aside(&tenant);
            let is_aside = *key == aside;
            let of = match item {
                Ok(None) => continue,
                Ok(Some(item)) => self.read_or_instead(&item, is_aside, instead)?,
                Err(_) if is_aside => continue,
                Err(why) => match self.in_order(Err(why), aside, instead).await? {
                    Some(of) if of.version == 0 => of,
                    _ => continue,
                },
            };
            summary.items += of.value.keys.max(u64::from(of.value.uncounted.is_some()));
            summary.tenants += 1;
            let since = of.value.since;
            summary.since = Some(summary.since.map_or(since, |other| other.min(since)));
        }
        Ok(summary)
    }
}

/// What can be made anew in the place of one that can't be read.
pub(super) trait Parked: Entity {
    fn told(self, reason: String, aside: bool) -> Self;

    fn is_aside(&self) -> bool;
}

impl Parked for ParkedKey {
    fn told(self, reason: String, aside: bool) -> Self {
        Self { reason, aside, ..self }
    }

    fn is_aside(&self) -> bool {
        self.aside
    }
}

impl Parked for ParkedTenant {
    fn told(self, reason: String, aside: bool) -> Self {
        Self { reason, aside, ..self }
    }

    fn is_aside(&self) -> bool {
        self.aside
    }
}

impl ParkedTenant {
    /// In the place of one that can't be read: how much is parked is not known.
    pub(super) fn instead(tenant: &TenantId, now: Timestamp) -> Self {
        let uncounted = Some(now.plus(LIST_LAG));
        Self { unpublished: true, uncounted, ..Self::new(tenant, now, "") }
    }
}
