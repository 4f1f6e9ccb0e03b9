//! Reads, on a few connections with their own statements.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params_from_iter};
use watchbill_core::offload::IsAbandoned;
use watchbill_core::ports::{DueKey, Item, Key, ListCursor, Page, Query, StoreError, WhichList};
use watchbill_domain::Timestamp;

use super::codec::{
    ITEM_COLUMNS, SHORT_ITEM_COLUMNS, after_all, due_cursor, is_long, joined, key_of, list_cursor,
    read_due_cursor, read_item, unpack_changes,
};
use super::{OpenError, reason_of, schema};

/// Timeout of a read: while one runs, the write-ahead log can't restart.
pub(super) const MAX_READ: Duration = Duration::from_secs(30);

/// SQLite VM steps between two checks of the clock: some tens of microseconds.
const STEPS: i32 = 10_000;

pub(super) struct Readers {
    connections: Vec<(Mutex<Connection>, Arc<AtomicU64>)>,
    next: AtomicUsize,
    begun: Instant,
}

/// The store error of a failed read.
fn down(error: rusqlite::Error) -> StoreError {
    if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
        let reason = format!("a read took longer than {MAX_READ:?} and was stopped; request less");
        return StoreError::Down { reason };
    }
    StoreError::Down { reason: reason_of(&error) }
}

/// The most unreadable list entries that are skipped in one page.
const MAX_PASSED_BY: usize = 1_000;

/// An index entry with an unreadable key is skipped, so that the others stay available.
fn log_unreadable(entry: &[u8]) {
    tracing::error!(bytes = entry.len(), "skipped an unreadable key in the database");
}

impl Readers {
    #[expect(clippy::disallowed_methods, reason = "bounds the real time of a read")]
    pub(super) fn open(path: &Path, count: usize, longest: Duration) -> Result<Self, OpenError> {
        let begun = Instant::now();
        let open = |_| {
            let mut conn = schema::open_reader(path)?;
            let since = Arc::new(AtomicU64::new(0));
            let (started, longest) = (since.clone(), longest.as_micros() as u64);
            let too_long = move || micros(begun) - started.load(Ordering::Relaxed) > longest;
            conn.progress_handler(STEPS, Some(too_long))
                .map_err(|source| OpenError::from_sqlite("set up a reader of", path, source))?;
            Ok((Mutex::new(conn), since))
        };
        let connections = (0..count.max(1)).map(open).collect::<Result<_, _>>()?;
        Ok(Self { connections, next: AtomicUsize::new(0), begun })
    }

    /// A free connection, or the next in turn once it is free.
    pub(super) fn one(&self) -> MutexGuard<'_, Connection> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.connections.len();
        for step in 0..count {
            let (connection, since) = &self.connections[(start + step) % count];
            if let Ok(free) = connection.try_lock() {
                since.store(micros(self.begun), Ordering::Relaxed);
                return free;
            }
        }
        let (connection, since) = &self.connections[start % count];
        let free = connection.lock().unwrap_or_else(PoisonError::into_inner);
        since.store(micros(self.begun), Ordering::Relaxed);
        free
    }
}

fn micros(begun: Instant) -> u64 {
    begun.elapsed().as_micros() as u64
}

/// Result of a short read.
pub(super) enum ShortRead {
    Found(Option<Item>),
    /// The item exists, but reading it takes long.
    Long,
}

/// Reads an item with a small body. SQLite knows a body's size without reading it.
pub(super) fn get_short(conn: &Connection, key: &Key) -> Result<ShortRead, StoreError> {
    let sql = format!("SELECT {SHORT_ITEM_COLUMNS} FROM items WHERE key = ?");
    let mut statement = conn.prepare_cached(&sql).map_err(down)?;
    let found = statement
        .query_row([joined(&key.partition, &key.sort)], |row| {
            Ok((!is_long(row)?).then(|| read_item(row, Some(key))))
        })
        .optional()
        .map_err(down)?;
    Ok(match found {
        None => ShortRead::Found(None),
        Some(None) => ShortRead::Long,
        Some(Some(item)) => ShortRead::Found(Some(item?.1)),
    })
}

pub(super) fn get(conn: &Connection, key: &Key) -> Result<Option<Item>, StoreError> {
    let sql = format!("SELECT {ITEM_COLUMNS} FROM items WHERE key = ?");
    let mut statement = conn.prepare_cached(&sql).map_err(down)?;
    let found = statement
        .query_row([joined(&key.partition, &key.sort)], |row| Ok(read_item(row, Some(key))))
        .optional()
        .map_err(down)?;
    Ok(found.transpose()?.map(|(_, item)| item))
}

pub(super) fn collect(
    conn: &Connection,
    partition: &str,
    prefix: &str,
    abandoned: &IsAbandoned,
) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
    let sql = format!("SELECT {ITEM_COLUMNS} FROM items WHERE key >= ? AND key < ? ORDER BY key");
    let mut statement = conn.prepare_cached(&sql).map_err(down)?;
    let range = (joined(partition, prefix), after_all(partition));
    let mut rows = statement.query(range).map_err(down)?;
    let mut items = Vec::new();
    while !abandoned.is_set()
        && let Some(row) = rows.next().map_err(down)?
    {
        match read_item(row, None) {
            Ok((_, item)) if !item.key.sort.starts_with(prefix) => break,
            // An unreadable item beyond the prefix does not concern the caller.
            Err(StoreError::Corrupt { key, .. })
                if *key.partition == *partition && !key.sort.starts_with(prefix) =>
            {
                break;
            }
            Ok((_, item)) => items.push(Ok(item)),
            Err(unreadable) => items.push(Err(unreadable)),
        }
    }
    Ok(items)
}

/// A page of a list. SQLite's row values compare in the order of the index.
pub(super) fn query(conn: &Connection, query: &Query) -> Result<Page<Key>, StoreError> {
    let column = match query.list {
        WhichList::First => "list",
        WhichList::Second => "list2",
    };
    let (past, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
    let partition = &query.partition;
    let from = joined(partition, query.range.from.as_deref().unwrap_or(""));
    let to = match &query.range.to {
        Some(to) => joined(partition, to),
        None => after_all(partition),
    };
    let mut values = vec![Value::Blob(from), Value::Blob(to)];
    let mut sql = format!("SELECT {column}, key FROM items WHERE {column} >= ? AND {column} < ?");
    if let Some(cursor) = &query.cursor {
        let ListCursor { sort, key } = ListCursor::parse(cursor)?;
        let (list, key) = (joined(partition, &sort), joined(&key.partition, &key.sort));
        sql += &format!(" AND ({column}, key) {past} (?, ?)");
        values.extend([Value::Blob(list), Value::Blob(key)]);
    }
    sql += &format!(" ORDER BY {column} {order}, key {order} LIMIT ?");
    values.push(one_more(query.limit.saturating_add(MAX_PASSED_BY)));
    let mut statement = conn.prepare_cached(&sql).map_err(down)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(down)?;
    let (mut entries, mut next, mut last) = (Vec::new(), None, None);
    while let Some(row) = rows.next().map_err(down)? {
        if entries.len() == query.limit {
            next = last;
            break;
        }
        let blob = |at| row.get_ref(at).and_then(|v| Ok(v.as_blob()?)).map_err(down);
        let (list, key) = (blob(0)?, blob(1)?);
        let Some(key) = key_of(key) else {
            log_unreadable(key);
            continue;
        };
        if entries.len() + 1 == query.limit {
            last = list_cursor(list, &key);
            if last.is_none() {
                log_unreadable(list);
                continue;
            }
        }
        entries.push(key);
    }
    Ok(Page { entries, next })
}

/// One more than the limit, to see whether there is more.
fn one_more(limit: usize) -> Value {
    Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
}

pub(super) fn due(
    conn: &Connection,
    shard: u8,
    until: Timestamp,
    limit: usize,
    cursor: Option<&str>,
) -> Result<Page<DueKey>, StoreError> {
    let (due, id) = cursor.map_or(Ok((i64::MIN, i64::MIN)), read_due_cursor)?;
    // `shard` is constant here; in the ORDER BY it lets the index provide the order.
    let sql = "SELECT due, id, key FROM items
        WHERE due >= ?1 AND due <= ?2 AND shard = ?3 AND (due > ?1 OR id > ?4)
        ORDER BY due, shard, id LIMIT ?5";
    let mut statement = conn.prepare_cached(sql).map_err(down)?;
    let values = (due, until.millis(), shard, id, one_more(limit));
    let mut rows = statement.query(values).map_err(down)?;
    let (mut entries, mut next, mut last) = (Vec::new(), None, (0, 0));
    let mut seen = 0;
    while let Some(row) = rows.next().map_err(down)? {
        if seen == limit {
            next = Some(due_cursor(last.0, last.1));
            break;
        }
        last = (row.get(0).map_err(down)?, row.get(1).map_err(down)?);
        let key = row.get_ref(2).and_then(|v| Ok(v.as_blob()?)).map_err(down)?;
        seen += 1;
        match key_of(key) {
            Some(key) => entries.push(DueKey { key, due: Timestamp::from_millis(last.0) }),
            None => log_unreadable(key),
        }
    }
    Ok(Page { entries, next })
}

/// Numbers, keys and versions of up to `max` changes after `after`.
pub(super) fn changes(
    conn: &Connection,
    after: u64,
    max: usize,
) -> Result<Vec<(u64, Key, u64)>, StoreError> {
    let sql = "SELECT last, n, packed FROM changes WHERE last > ? ORDER BY last";
    let mut statement = conn.prepare_cached(sql).map_err(down)?;
    let after_row = i64::try_from(after).unwrap_or(i64::MAX);
    let mut rows = statement.query([after_row]).map_err(down)?;
    let mut found = Vec::new();
    while found.len() < max
        && let Some(row) = rows.next().map_err(down)?
    {
        let last = row.get::<_, i64>(0).map_err(down)?.cast_unsigned();
        let n = row.get::<_, i64>(1).map_err(down)?.cast_unsigned();
        let packed = row.get_ref(2).and_then(|v| Ok(v.as_blob()?)).map_err(down)?;
        for (seq, change) in (last + 1 - n..).zip(unpack_changes(packed)) {
            let Some((key, version)) = change else {
                tracing::error!(seq, last, "skipped unreadable changes in the feed");
                break;
            };
            if seq > after && found.len() < max {
                found.push((seq, key, version));
            }
        }
    }
    Ok(found)
}
