//! Reads what is parked. Of an unreadable parked item every change counts as missing.

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

/// Tenants in a summary, at most.
const MAX_TENANTS: usize = 1_000;
/// Items of a page, at least.
const MIN_PAGE: usize = 64;
/// Pages of the list searched for items to replay, at most: items that the store cannot read
/// stay at its beginning until someone removes them.
const MAX_PAGES: usize = 16;

impl Parking {
    /// What is parked of these items, in the given order; strongly consistent.
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

    /// The stored item; if it is unreadable, a replacement that treats every change as missing.
    /// Where the store cannot read it, the replacement goes aside, where one may exist already.
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

    /// The decoded item; if that fails, a replacement that treats every change as missing.
    /// Writing the replacement overwrites the item.
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
        let reason = format!("the earlier parked changes can't be read: {why}");
        let value = instead(self.context.clock().now()).with_reason(clean(&reason), aside);
        Versioned { value, version, unknown: None, due: None }
    }

    /// Parked items whose next retry is due, the longest due first.
    pub async fn to_replay(
        &self,
        tenant: &TenantId,
        limit: usize,
    ) -> Result<Vec<Versioned<ParkedKey>>, ServiceError> {
        let after = Timestamp::from_millis(self.context.clock().now().millis() + 1);
        let range = ListRange { from: None, to: Some(after.sortable().into()) };
        Ok(self.listed(tenant, range, limit).await?.0)
    }

    /// Whether the list shows no more parked items of a tenant.
    pub(super) async fn is_list_empty(&self, tenant: &TenantId) -> Result<bool, ServiceError> {
        let (found, all) = self.listed(tenant, ListRange::default(), 1).await?;
        Ok(found.is_empty() && all)
    }

    /// Up to `limit` items of the list, and whether the list was read to its end.
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

    /// The parked items under these keys of the list.
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
                // An item that exists aside already is in the list by itself.
                Err(why) => {
                    let of = self.in_order(Err(why), aside, instead).await?;
                    of.filter(|of| of.version == 0)
                }
            };
            found.extend(parked.filter(|of| of.value.is_open()));
        }
        Ok(found)
    }

    /// How much is parked, for health and alarms: from a list, which may lag. A tenant whose
    /// count is unreadable counts as one item.
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

/// An entity that can be recreated in place of an unreadable one.
pub(super) trait Parked: Entity {
    fn with_reason(self, reason: String, aside: bool) -> Self;

    fn is_aside(&self) -> bool;
}

impl Parked for ParkedKey {
    fn with_reason(self, reason: String, aside: bool) -> Self {
        Self { reason, aside, ..self }
    }

    fn is_aside(&self) -> bool {
        self.aside
    }
}

impl Parked for ParkedTenant {
    fn with_reason(self, reason: String, aside: bool) -> Self {
        Self { reason, aside, ..self }
    }

    fn is_aside(&self) -> bool {
        self.aside
    }
}

impl ParkedTenant {
    /// Replaces an unreadable item: how much is parked is unknown.
    pub(super) fn instead(tenant: &TenantId, now: Timestamp) -> Self {
        let uncounted = Some(now.plus(LIST_LAG));
        Self { unpublished: true, uncounted, ..Self::new(tenant, now, "") }
    }
}
