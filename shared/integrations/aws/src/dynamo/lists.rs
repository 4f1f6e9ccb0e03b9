//! Queries of lists and due times on the three indexes.
//!
//! An index returns equal sorts in any order, but the port orders them by item key. So a page
//! reads on until its last sort is complete and orders in memory. Its cursor is the last entry
//! returned, and the next page starts with that sort again. Equal sorts are few, because they
//! are times in milliseconds. Cursors name no index partition, so a foreign cursor returns only
//! what the caller may list anyway.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use watchbill_core::ports::{
    DUE_SHARDS, DueKey, Key, ListCursor, Page, Query, StoreError, WhichList, due_shard,
};
use watchbill_domain::Timestamp;

use super::failure::read_failure;
use super::item::{Attribute, fits, integer, key_map, number, shard_name, storable, text};
use super::{DynamoStore, row_key, unnamed};

/// Row limit of a request; a page also ends at one megabyte.
const MAX_ROWS: usize = 1000;

type Row = HashMap<String, AttributeValue>;

struct Index {
    name: &'static str,
    partition: &'static str,
    sort: &'static str,
}

const LIST1: Index = Index { name: "list1", partition: "l1", sort: "l1s" };
const LIST2: Index = Index { name: "list2", partition: "l2", sort: "l2s" };
const DUE: Index = Index { name: "due", partition: "ds", sort: "d" };

/// Inclusive bounds of the sort.
#[derive(Clone)]
struct SortBounds {
    from: Option<AttributeValue>,
    to: Option<AttributeValue>,
}

impl DynamoStore {
    /// Up to `limit` rows of one index partition after `start`, and where to continue if there
    /// may be more.
    async fn rows(
        &self,
        index: &Index,
        partition: &str,
        (span, descending): (SortBounds, bool),
        limit: usize,
        start: Option<Row>,
    ) -> Result<(Vec<Row>, Option<Row>), StoreError> {
        let condition = match (&span.from, &span.to) {
            (None, None) => "#p = :p",
            (Some(_), None) => "#p = :p AND #s >= :from",
            (None, Some(_)) => "#p = :p AND #s <= :to",
            (Some(_), Some(_)) => "#p = :p AND #s BETWEEN :from AND :to",
        };
        let mut values = HashMap::from([(":p".to_owned(), text(partition))]);
        values.extend(span.from.map(|from| (":from".to_owned(), from)));
        values.extend(span.to.map(|to| (":to".to_owned(), to)));
        let sort = (condition.contains("#s")).then(|| ("#s".to_owned(), index.sort.to_owned()));
        let names = HashMap::from([("#p".to_owned(), index.partition.to_owned())]);
        let answer = self
            .client
            .query()
            .table_name(&*self.table)
            .index_name(index.name)
            .key_condition_expression(condition)
            .set_expression_attribute_names(Some(names.into_iter().chain(sort).collect()))
            .set_expression_attribute_values(Some(values))
            .scan_index_forward(!descending)
            .limit(limit.min(MAX_ROWS) as i32)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|e| read_failure(&e))?;
        Ok((answer.items.unwrap_or_default(), answer.last_evaluated_key))
    }

    pub(super) async fn list_page(&self, query: Query) -> Result<Page<Key>, StoreError> {
        let after = query.cursor.as_deref().map(read_list_cursor).transpose()?;
        let Some(span) = span_of(&query, after.as_ref()) else {
            return Ok(Page { entries: Vec::new(), next: None });
        };
        let index = match query.list {
            WhichList::First => LIST1,
            WhichList::Second => LIST2,
        };
        let limit = query.limit;
        let fits = |row: &(String, Key)| {
            query.range.to.as_ref().is_none_or(|to| *row.0 < **to)
                && after
                    .as_ref()
                    .is_none_or(|after| if query.descending { row < after } else { row > after })
        };
        // One extra row shows whether there is more, a second that the last sort is complete.
        // The cursor's own entry is read again.
        let ask = limit.saturating_add(2 + usize::from(after.is_some()));
        let (mut found, mut start) = (Vec::<(String, Key)>::new(), None);
        loop {
            let order = (span.clone(), query.descending);
            let (rows, next) = self.rows(&index, &query.partition, order, ask, start).await?;
            let mut last_read = None;
            for row in &rows {
                let sort = row.get(index.sort).and_then(Attribute::text);
                let sort = sort.ok_or_else(|| unnamed("a list entry has no sort"))?;
                let entry = (sort.to_owned(), row_key(row)?);
                if fits(&entry) {
                    found.push(entry);
                }
                last_read = Some(sort);
            }
            start = next;
            let enough =
                found.len() > limit && last_read.is_some_and(|last| last != found[limit - 1].0);
            if start.is_none() || enough {
                return Ok(cut(found, limit, query.descending));
            }
        }
    }

    pub(super) async fn due_page(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        let after = cursor.map(|cursor| read_due_cursor(&cursor, shard)).transpose()?;
        let beyond = after.as_ref().is_some_and(|(due, _)| *due > until);
        if shard >= DUE_SHARDS || limit == 0 || beyond {
            return Ok(Page { entries: Vec::new(), next: None });
        }
        let mut start = after.map(|(due, key)| {
            let mut row = key_map(&key);
            row.insert(DUE.partition.to_owned(), text(&shard_name(shard)));
            row.insert(DUE.sort.to_owned(), number(due.millis()));
            row
        });
        let span = SortBounds { from: None, to: Some(number(until.millis())) };
        let mut found: Vec<DueKey> = Vec::new();
        loop {
            let ask = limit.saturating_add(1) - found.len();
            let order = (span.clone(), false);
            let (rows, next) = self.rows(&DUE, &shard_name(shard), order, ask, start).await?;
            for row in &rows {
                let due = integer(row, DUE.sort).ok().flatten();
                let due = due.ok_or_else(|| unnamed("a due entry has no due time"))?;
                found.push(DueKey { key: row_key(row)?, due: Timestamp::from_millis(due) });
            }
            start = next;
            if start.is_none() || found.len() > limit {
                break;
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|d| cursor_of(d.due.millis(), &d.key));
        Ok(Page { entries: found, next })
    }
}

/// Cuts complete sorts to a page of `limit` entries.
fn cut(mut found: Vec<(String, Key)>, limit: usize, descending: bool) -> Page<Key> {
    found.sort_unstable();
    if descending {
        found.reverse();
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let cursor = |(sort, key): &(String, Key)| {
        ListCursor { sort: sort.as_str().into(), key: key.clone() }.to_string()
    };
    let next = found.last().filter(|_| more).map(cursor);
    Page { entries: found.into_iter().map(|(_, key)| key).collect(), next }
}

/// The index range of a page; `None` if the page must be empty.
fn span_of(query: &Query, after: Option<&(String, Key)>) -> Option<SortBounds> {
    let mut from = query.range.from.as_deref();
    let mut to = query.range.to.as_deref();
    let none = query.limit == 0
        || !fits(&query.partition, "0")
        || to.is_some_and(|to| to.is_empty() || from.is_some_and(|from| from >= to));
    if none {
        return None;
    }
    if let Some((sort, _)) = after {
        if query.descending {
            to = Some(to.map_or(sort, |to| to.min(sort)));
        } else {
            from = Some(from.map_or(sort, |from| from.max(sort)));
        }
    }
    if from > to && to.is_some() {
        return None;
    }
    // Every sort follows the empty string, which DynamoDB does not compare with.
    let from = from.filter(|from| !from.is_empty());
    Some(SortBounds { from: from.map(text), to: to.map(text) })
}

fn cursor_of(sort: impl serde::Serialize, key: &Key) -> String {
    serde_json::json!([sort, &*key.partition, &*key.sort]).to_string()
}

fn bad(cursor: &str) -> StoreError {
    StoreError::BadCursor(cursor.to_owned())
}

fn read_list_cursor(cursor: &str) -> Result<(String, Key), StoreError> {
    let ListCursor { sort, key } = ListCursor::parse(cursor)?;
    let sound = storable(&key) && fits("0", &sort);
    if sound { Ok((sort.to_string(), key)) } else { Err(bad(cursor)) }
}

fn read_due_cursor(cursor: &str, shard: u8) -> Result<(Timestamp, Key), StoreError> {
    let (millis, partition, sort): (i64, String, String) =
        serde_json::from_str(cursor).map_err(|_| bad(cursor))?;
    let key = Key::new(partition, sort);
    let sound = storable(&key) && due_shard(&key.partition) == shard;
    if sound { Ok((Timestamp::from_millis(millis), key)) } else { Err(bad(cursor)) }
}
