//! Lists of the store, read in chunks and cut where a page is full.

use std::sync::Arc;

use watchbill_domain::TenantId;

use super::cursor::{CursorKind, Cursors};
use super::unreadable::ReadItem;
use super::{Context, ServiceError};
use crate::ports::{Item, ListCursor, ListRange, Query, WhichList};
use crate::repo;

/// Items of one chunk: the most that is read and discarded when a page is full.
const CHUNK: usize = 50;

/// One list of one tenant.
pub(super) struct StoreList {
    list: WhichList,
    partition: Arc<str>,
    range: ListRange,
    cursors: Cursors,
    prefix: String,
}

/// A part of a list, newest first.
pub(super) struct Chunk {
    pub items: Vec<InList>,
    /// Where the next chunk begins.
    pub next: Option<ListCursor>,
    pub bytes: usize,
}

/// An entry of a list as it was read.
pub(super) enum InList {
    /// With the position after it.
    Item(Item, ListCursor),
    /// Unreadable, which was noted.
    Unreadable,
    /// Removed meanwhile.
    Gone,
}

impl StoreList {
    pub fn new(
        kind: CursorKind,
        tenant: &TenantId,
        (list, partition): (WhichList, Arc<str>),
        range: ListRange,
    ) -> Self {
        let cursors = Cursors::new(kind, tenant, &partition);
        Self { list, partition, range, cursors, prefix: repo::tenant_prefix(tenant) }
    }

    pub fn open(&self, cursor: Option<String>) -> Result<Option<ListCursor>, ServiceError> {
        cursor.map(|cursor| self.cursors.open_list(&self.prefix, &cursor)).transpose()
    }

    pub fn seal(&self, place: &ListCursor) -> String {
        self.cursors.seal_list(&self.prefix, place)
    }

    pub async fn chunk(
        &self,
        context: &Context,
        after: Option<&ListCursor>,
    ) -> Result<Chunk, ServiceError> {
        let query = Query {
            list: self.list,
            partition: self.partition.clone(),
            range: self.range.clone(),
            descending: true,
            limit: CHUNK,
            cursor: after.map(ToString::to_string),
        };
        let page = context.store().query(query).await?;
        let next = page.next.as_deref().map(ListCursor::parse).transpose()?;
        let items = context.get_each(&page.entries).await?;
        let bytes = items.iter().flatten().flatten().map(|item| item.body.len()).sum();
        let placed = |item: ReadItem| match item {
            Ok(Some(item)) => match ListCursor::of(&item, self.list) {
                Some(place) => InList::Item(item, place),
                None => InList::Gone,
            },
            Ok(None) => InList::Gone,
            Err(_) => InList::Unreadable,
        };
        Ok(Chunk { items: items.into_iter().map(placed).collect(), next, bytes })
    }
}
