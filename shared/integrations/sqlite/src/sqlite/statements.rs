//! The writer's statements, prepared once and kept.

use std::collections::BTreeMap;

use rusqlite::blob::ZeroBlob;
use rusqlite::{Connection, OptionalExtension, Statement};
use watchbill_core::ports::{Item, Key, ListEntry, StoreError, WriteId, due_shard};
use watchbill_domain::Timestamp;

use super::codec::{ITEM_COLUMNS, join, read_item, sum_of};
use super::recent::CachedItem;

pub(super) type Sql<T> = rusqlite::Result<T>;

/// Which columns an update sets next to version, write id and body. Each combination has its
/// own statement, because setting a column rewrites its index even if the value stays the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    list: bool,
    list2: bool,
    due: bool,
    rest: bool,
}

impl Changed {
    pub(super) fn between(old: &Item, new: &Item) -> Self {
        Self {
            list: old.list != new.list,
            list2: old.list2 != new.list2,
            due: old.due != new.due,
            rest: old.expires != new.expires || old.kind != new.kind || old.schema != new.schema,
        }
    }

    fn number(self) -> usize {
        [self.list, self.list2, self.due, self.rest]
            .into_iter()
            .fold(0, |number, bit| number * 2 + usize::from(bit))
    }

    fn sql(self) -> String {
        let mut sql = "UPDATE items SET v = ?, w = ?, body = ?, room = ?, sum = ?".to_owned();
        for (set, columns) in [
            (self.list, ", list = ?"),
            (self.list2, ", list2 = ?"),
            (self.due, ", due = ?"),
            (self.rest, ", expires = ?, kind = ?, schema = ?"),
        ] {
            if set {
                sql.push_str(columns);
            }
        }
        sql + " WHERE id = ?"
    }
}

pub(super) struct Statements<'c> {
    conn: &'c Connection,
    begin: Statement<'c>,
    epoch: Statement<'c>,
    commit: Statement<'c>,
    find: Statement<'c>,
    insert: Statement<'c>,
    updates: [Option<Statement<'c>>; 16],
    count: Statement<'c>,
    delete: Statement<'c>,
    change: Statement<'c>,
    key: Vec<u8>,
    lists: [Vec<u8>; 2],
}

fn list_bytes<'b>(entry: &Option<ListEntry>, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    let entry = entry.as_ref()?;
    join(buffer, &entry.partition, &entry.sort);
    Some(buffer)
}

fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::millis)
}

/// Size to which a growing body is padded: rows that keep their size are overwritten in place,
/// others push their neighbours off the page.
const ROOMY: usize = 832;

/// Padding for items that grow: those in lists, which are rewritten often. A new item that is
/// only in its first list and not due is written once (a ledger batch) or rarely.
fn room(item: &Item) -> Option<ZeroBlob> {
    let missing = ROOMY.saturating_sub(item.body.len());
    let grows = item.version > 1 || item.due.is_some() || item.list2.is_some();
    (item.list.is_some() && grows && missing > 0).then_some(ZeroBlob(missing as u64))
}

fn mark(id: WriteId) -> [u8; 16] {
    id.0.to_be_bytes()
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(conn: &'c Connection) -> Sql<Self> {
        Ok(Self {
            conn,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            epoch: conn.prepare(EPOCH)?,
            commit: conn.prepare("COMMIT")?,
            find: conn.prepare(&format!("SELECT {ITEM_COLUMNS} FROM items WHERE key = ?"))?,
            insert: conn.prepare(
                "INSERT INTO items
                     (id, key, v, w, kind, schema, list, list2, due, shard, expires, body, room,
                      sum)
                 VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            )?,
            updates: Default::default(),
            count: conn.prepare(
                "UPDATE items SET v = ?, w = ?, counters = ?, expires = ?, sum = ? WHERE id = ?",
            )?,
            delete: conn.prepare("DELETE FROM items WHERE id = ?")?,
            change: conn.prepare("INSERT INTO changes (last, n, packed) VALUES (?, ?, ?)")?,
            key: Vec::new(),
            lists: Default::default(),
        })
    }

    /// Begins a transaction and returns the epoch inside it.
    pub(super) fn begin(&mut self) -> Sql<u64> {
        self.begin.execute([])?;
        self.epoch.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    }

    pub(super) fn commit(&mut self) -> Sql<()> {
        self.commit.execute([]).map(drop)
    }

    pub(super) fn rollback(&self) -> Sql<()> {
        if self.conn.is_autocommit() {
            return Ok(());
        }
        self.conn.execute_batch("ROLLBACK")
    }

    /// The inner error concerns this item only.
    pub(super) fn find(&mut self, key: &Key) -> Sql<Result<Option<CachedItem>, StoreError>> {
        join(&mut self.key, &key.partition, &key.sort);
        let row = self
            .find
            .query_row([&self.key], |row| Ok(read_item(row, Some(key))))
            .optional()?
            .transpose();
        Ok(row.map(|found| found.map(|(id, item)| CachedItem { id, item: item.into() })))
    }

    /// `false` if the key exists and nothing was done.
    pub(super) fn insert(&mut self, id: i64, item: &Item) -> Sql<bool> {
        join(&mut self.key, &item.key.partition, &item.key.sort);
        let [list, list2] = &mut self.lists;
        let made = self.insert.execute((
            id,
            &self.key,
            mark(item.write_id),
            &*item.kind,
            item.schema,
            list_bytes(&item.list, list),
            list_bytes(&item.list2, list2),
            millis(item.due),
            due_shard(&item.key.partition),
            millis(item.expires),
            &item.body[..],
            room(item),
            sum_of(item),
        ))?;
        Ok(made == 1)
    }

    pub(super) fn update(&mut self, id: i64, item: &Item, changed: Changed) -> Sql<()> {
        let statement = match &mut self.updates[changed.number()] {
            Some(statement) => statement,
            none => none.insert(self.conn.prepare(&changed.sql())?),
        };
        let [list, list2] = &mut self.lists;
        let mut at = 0;
        let mut next = || {
            at += 1;
            at
        };
        statement.raw_bind_parameter(next(), item.version.cast_signed())?;
        statement.raw_bind_parameter(next(), mark(item.write_id))?;
        statement.raw_bind_parameter(next(), &item.body[..])?;
        statement.raw_bind_parameter(next(), room(item))?;
        statement.raw_bind_parameter(next(), sum_of(item))?;
        if changed.list {
            statement.raw_bind_parameter(next(), list_bytes(&item.list, list))?;
        }
        if changed.list2 {
            statement.raw_bind_parameter(next(), list_bytes(&item.list2, list2))?;
        }
        if changed.due {
            statement.raw_bind_parameter(next(), millis(item.due))?;
        }
        if changed.rest {
            statement.raw_bind_parameter(next(), millis(item.expires))?;
            statement.raw_bind_parameter(next(), &*item.kind)?;
            statement.raw_bind_parameter(next(), item.schema)?;
        }
        statement.raw_bind_parameter(next(), id)?;
        statement.raw_execute().map(drop)
    }

    /// Writes only the counters.
    pub(super) fn count(&mut self, id: i64, item: &Item) -> Sql<()> {
        let counters = counters_text(&item.counters);
        let version = item.version.cast_signed();
        let (w, expires) = (mark(item.write_id), millis(item.expires));
        self.count.execute((version, w, counters, expires, sum_of(item), id)).map(drop)
    }

    pub(super) fn delete(&mut self, id: i64) -> Sql<()> {
        self.delete.execute([id]).map(drop)
    }

    pub(super) fn change(&mut self, last: u64, n: usize, packed: &[u8]) -> Sql<()> {
        self.change.execute((last.cast_signed(), n as i64, packed)).map(drop)
    }

    /// Keys of expired items after the first `skipped`; `None` for an unreadable key.
    pub(super) fn expired(
        &self,
        now: Timestamp,
        limit: usize,
        skipped: usize,
    ) -> Sql<Vec<Option<Key>>> {
        let sql = "SELECT key FROM items WHERE expires <= ? ORDER BY expires, id LIMIT ? OFFSET ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map((now.millis(), limit as i64, skipped as i64), |row| {
            Ok(super::codec::key_of(row.get_ref(0)?.as_blob()?))
        })?;
        rows.collect()
    }

    pub(super) fn partition(&self, partition: &str) -> Sql<Vec<Key>> {
        let sql = "SELECT key FROM items WHERE key >= ? AND key < ?";
        // A key is its partition, a NUL and its sort.
        let (mut from, mut to) = (partition.as_bytes().to_vec(), partition.as_bytes().to_vec());
        from.push(0);
        to.push(1);
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement
            .query_map((from, to), |row| Ok(super::codec::key_of(row.get_ref(0)?.as_blob()?)))?;
        rows.filter_map(Result::transpose).collect()
    }

    /// Keeps the newest row, so that numbering continues after a restart.
    pub(super) fn trim(&self, upto: u64, limit: usize) -> Sql<usize> {
        let sql = "DELETE FROM changes WHERE last IN (
                SELECT last FROM changes
                WHERE last <= ? AND last < (SELECT max(last) FROM changes)
                ORDER BY last LIMIT ?)";
        let upto = i64::try_from(upto).unwrap_or(i64::MAX);
        self.conn.prepare_cached(sql)?.execute((upto, limit as i64))
    }
}

fn counters_text(counters: &BTreeMap<String, i64>) -> String {
    serde_json::to_string(counters).expect("a map of strings to numbers serializes to JSON")
}

const EPOCH: &str = "SELECT value FROM meta WHERE name = 'epoch'";

/// How often the file was opened.
pub(super) fn epoch(conn: &Connection) -> Sql<u64> {
    conn.query_row(EPOCH, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// The last row id and the last change's number.
pub(super) fn last_numbers(conn: &Connection) -> Sql<(i64, u64)> {
    let last = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    Ok((
        last("SELECT coalesce(max(id), 0) FROM items")?,
        last("SELECT coalesce(max(last), 0) FROM changes")?.cast_unsigned(),
    ))
}
