//! Lists read from the ledger, newest first.

use watchbill_domain::TenantId;

use super::cursor::Cursors;
use super::walk::StoreWalk;
use super::weight::PageRoom;
use super::{Context, ServiceError};
use crate::ledger::Entry;

/// How a list is derived from the ledger's lines.
pub(super) trait LedgerList {
    type Item;

    /// The number of entries that a line could contribute to the list.
    fn count(&self, entry: &Entry) -> usize;

    /// Those entries in order, with `None` in place of unwanted ones.
    fn of(&self, entry: &Entry) -> Vec<Option<Self::Item>>;

    /// Size of an entry in a page, bytes.
    fn weight(item: &Self::Item) -> usize;
}

/// A page of a list, with its size.
pub(super) struct LedgerPage<T> {
    pub entries: Vec<T>,
    pub next: Option<String>,
    pub bytes: usize,
    /// The number of unreadable batches.
    pub unreadable: usize,
}

/// A page of a list. It ends at its limit, at its size in bytes, or at the limit of one call's
/// walk: then it may be empty, and its cursor continues.
pub(super) async fn newest_first<L: LedgerList>(
    context: &Context,
    tenant: &TenantId,
    list: &L,
    cursors: &Cursors,
    (limit, cursor): (usize, Option<String>),
) -> Result<LedgerPage<L::Item>, ServiceError> {
    let ledger = context.ledger(tenant);
    let (mut seq, mut before) = match cursor {
        None => (ledger.listed_head().await?, usize::MAX),
        Some(cursor) => cursors.open_batch(&cursor)?,
    };
    let (mut walk, mut room) = (StoreWalk::new(&**context.clock()), PageRoom::of_page());
    let mut entries = Vec::new();
    let mut unreadable = 0;
    let page = |entries, room: &PageRoom, unreadable, next| {
        let bytes = room.taken();
        LedgerPage { entries, next, bytes, unreadable }
    };
    while seq > 0 {
        if walk.is_over() {
            return Ok(page(entries, &room, unreadable, Some(cursors.seal_batch(seq, usize::MAX))));
        }
        let batch = match context.readable(ledger.weighed(seq).await)? {
            Ok(batch) => batch,
            Err(_) => {
                walk.read(0);
                (unreadable, before) = (unreadable + 1, usize::MAX);
                seq -= 1;
                continue;
            }
        };
        let Some((batch, bytes)) = batch else { break };
        walk.read(bytes);
        let mut place: usize = batch.entries.iter().map(|entry| list.count(entry)).sum();
        for entry in batch.entries.iter().rev() {
            let count = list.count(entry);
            if place.saturating_sub(count) >= before {
                place = place.saturating_sub(count);
                continue;
            }
            for one in list.of(entry).into_iter().rev() {
                place = place.saturating_sub(1);
                let Some(one) = one.filter(|_| place < before) else { continue };
                if !room.takes(L::weight(&one)) {
                    return Ok(page(
                        entries,
                        &room,
                        unreadable,
                        Some(cursors.seal_batch(seq, place + 1)),
                    ));
                }
                entries.push(one);
                if entries.len() == limit {
                    let more = seq > 1 || place > 0;
                    return Ok(page(
                        entries,
                        &room,
                        unreadable,
                        more.then(|| cursors.seal_batch(seq, place)),
                    ));
                }
            }
        }
        before = usize::MAX;
        seq -= 1;
    }
    Ok(page(entries, &room, unreadable, None))
}
