//! Lists that are read off the ledger, newest first.

use watchbill_domain::TenantId;

use super::cursor::Cursors;
use super::walk::Walk;
use super::weight::Room;
use super::{Context, ServiceError};
use crate::ledger::Entry;

/// What a list makes of the ledger's lines.
pub(super) trait LedgerList {
    type Item;

    /// How many things of a line the list could hold.
    fn count(&self, entry: &Entry) -> usize;

    /// Those things in their order, with nothing at the places of what is not wanted.
    fn of(&self, entry: &Entry) -> Vec<Option<Self::Item>>;

    /// Bytes of one in a page.
    fn weight(item: &Self::Item) -> usize;
}

/// A page of a list, with what it weighs.
pub(super) struct LedgerPage<T> {
    pub entries: Vec<T>,
    pub next: Option<String>,
    pub bytes: usize,
    /// Batches that can't be read.
    pub unreadable: usize,
}

/// A page of a list. It ends at its limit, at its bytes, or where one call has walked far
/// enough: then it may be empty, and its cursor goes on.
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
    let (mut walk, mut room) = (Walk::new(&**context.clock()), Room::of_page());
    let mut entries = Vec::new();
    let mut unreadable = 0;
    let page = |entries, room: &Room, unreadable, next| {
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
