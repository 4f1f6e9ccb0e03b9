//! Lists that are read off the ledger, newest first. A cursor is `<batch>.<place>`: what comes
//! next is before it.

use super::ServiceError;
use crate::ledger::{Batch, LedgerReader};

/// How many batches one page looks through before it hands back a cursor.
const LOOK_AT: u64 = 256;

/// A page of what `of` finds in the batches. It gives a place to everything of a batch that
/// the list could hold, in its order, and nothing at the places of what is not wanted.
pub(super) async fn newest_first<T>(
    ledger: &LedgerReader,
    list: &str,
    limit: usize,
    cursor: Option<String>,
    of: impl Fn(&Batch) -> Vec<Option<T>>,
) -> Result<(Vec<T>, Option<String>), ServiceError> {
    let (mut seq, mut before) = match cursor {
        None => (ledger.listed_head().await?, usize::MAX),
        Some(cursor) => parse_cursor(&cursor, list)?,
    };
    let lowest = seq.saturating_sub(LOOK_AT);
    let mut found = Vec::new();
    while seq > lowest {
        let Some(batch) = ledger.batch(seq).await? else { break };
        for (place, one) in of(&batch).into_iter().enumerate().rev() {
            let Some(one) = one.filter(|_| place < before) else { continue };
            found.push(one);
            if found.len() == limit {
                let next = (seq > 1 || place > 0).then(|| format!("{seq}.{place}"));
                return Ok((found, next));
            }
        }
        before = usize::MAX;
        seq -= 1;
    }
    let next = (seq > 0 && seq == lowest).then(|| format!("{seq}.{}", usize::MAX));
    Ok((found, next))
}

pub(super) fn parse_cursor(cursor: &str, list: &str) -> Result<(u64, usize), ServiceError> {
    let parsed = cursor
        .split_once('.')
        .and_then(|(seq, place)| Some((seq.parse().ok()?, place.parse().ok()?)));
    parsed.ok_or_else(|| ServiceError::Invalid {
        field: "cursor",
        message: format!("'{cursor}' is no cursor of {list}; leave it out to start anew"),
    })
}
