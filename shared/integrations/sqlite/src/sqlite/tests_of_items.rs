//! Tests of bytes changed on disk, items from before checksums, and a log held by a reader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use watchbill_core::offload::IsAbandoned;
use watchbill_core::ports::{
    Commit, CommitError, Key, ListEntry, ListRange, NewItem, Precondition, Query, Store as _,
    StoreError, WhichList, Write, WriteId,
};
use watchbill_domain::Timestamp;

use super::checkpoint::Checkpoints;
use super::reader::{self, Readers};
use super::tests::create;
use super::{Options, SqliteStore, schema};

fn from_the_file(folder: &TempDir) -> SqliteStore {
    let options = Options { recent_bytes: 0, tail_bytes: 0, ..Options::default() };
    SqliteStore::open(folder.path(), options).unwrap()
}

/// In lists, due and with an expiry, so that every column has a value.
fn put(n: u32, expect: Precondition, body: &'static str) -> Commit {
    let entry = || Some(ListEntry { partition: "L".into(), sort: n.to_string().into() });
    let item = NewItem {
        key: Key::new(format!("P#{n}"), "0"),
        kind: "thing".into(),
        schema: 1,
        body: Bytes::from_static(body.as_bytes()),
        list: entry(),
        list2: entry(),
        due: Some(Timestamp::from_millis(5)),
        expires: Some(Timestamp::from_millis(10)),
    };
    Commit { id: WriteId(u128::from(n) + 1), writes: vec![Write::Put { item, expect }] }
}

fn key(n: u32) -> Key {
    Key::new(format!("P#{n}"), "0")
}

#[tokio::test]
async fn a_changed_byte_is_noticed_and_costs_only_its_item() {
    let changes = [
        "body = CAST('{\"amount\":900}' AS BLOB)",
        "v = 7",
        "w = zeroblob(16)",
        "kind = 'thong'",
        "schema = 0",
        "list = NULL",
        "list2 = CAST('L' || char(0) || '9' AS BLOB)",
        "due = 4",
        "expires = 9",
        "counters = '{\"n\":1}'",
    ];
    for change in changes {
        let folder = TempDir::new().unwrap();
        let store = from_the_file(&folder);
        for n in 1..4 {
            store.commit(put(n, Precondition::Absent, "{\"amount\":100}")).await.unwrap();
        }
        let other = Connection::open(store.path()).unwrap();
        let sql = format!("UPDATE items SET {change} WHERE id = 2");
        assert_eq!(other.execute(&sql, []).unwrap(), 1);

        match store.get(&key(2)).await {
            Err(StoreError::Corrupt { key: named, reason }) => {
                assert_eq!(named, key(2));
                assert!(reason.contains("checksum"), "{change}: {reason}");
            }
            read => panic!("{change} was not noticed: {read:?}"),
        }
        for n in [1, 3] {
            assert!(store.get(&key(n)).await.unwrap().is_some());
        }
        // The feed and the removal of expired items continue past it.
        let feed = store.changes(0, 10).await.unwrap();
        let images: Vec<_> = feed.iter().map(|(_, change)| change.image.is_some()).collect();
        assert_eq!(images, [true, false, true], "{change}");
        let over = store.commit(put(2, Precondition::Version(1), "{}")).await;
        assert!(matches!(over, Err(CommitError::Store(StoreError::Corrupt { .. }))), "{over:?}");
        assert_eq!(store.purge_expired(Timestamp::from_millis(10), 1).await.unwrap(), 1);
        assert_eq!(store.purge_expired(Timestamp::from_millis(10), 1).await.unwrap(), 1);
        assert_eq!(store.purge_expired(Timestamp::from_millis(10), 1).await.unwrap(), 0);
        assert!(store.get(&key(2)).await.is_err(), "{change}: it stays to be looked at");
    }
}

#[tokio::test]
async fn an_unreadable_key_or_change_is_skipped() {
    let folder = TempDir::new().unwrap();
    let store = from_the_file(&folder);
    for n in 1..4 {
        store.commit(put(n, Precondition::Absent, "{}")).await.unwrap();
    }
    let other = Connection::open(store.path()).unwrap();
    other.execute("UPDATE items SET key = x'ff' WHERE id = 2", []).unwrap();
    other.execute("UPDATE changes SET packed = x'ff' WHERE last = 2", []).unwrap();
    for list in [WhichList::First, WhichList::Second] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let (partition, range) = ("L".into(), ListRange::default());
            let query = Query { list, partition, range, descending: true, limit: 1, cursor };
            let page = store.query(query).await.unwrap();
            found.extend(page.entries);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, [key(3), key(1)]);
    }
    let mut due = Vec::new();
    for shard in 0..watchbill_core::ports::DUE_SHARDS {
        let page = store.due(shard, Timestamp::from_millis(5), 10, None).await.unwrap();
        due.extend(page.entries.into_iter().map(|due| due.key));
    }
    due.sort_unstable();
    assert_eq!(due, [key(1), key(3)]);
    let feed = store.changes(0, 10).await.unwrap();
    let seqs: Vec<_> = feed.iter().map(|(seq, change)| (*seq, change.key.clone())).collect();
    assert_eq!(seqs, [(1, key(1)), (3, key(3))]);
    assert_eq!(store.purge_expired(Timestamp::from_millis(10), 10).await.unwrap(), 2);
}

/// Frozen: what builds of version 1 created and wrote.
const VERSION_1: &str = include_str!("../../tests/fixtures/version-1.sql");

#[tokio::test]
async fn what_was_written_before_checksums_is_read_and_gets_one_when_it_changes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("watchbill.db");
    Connection::open(&path).unwrap().execute_batch(VERSION_1).unwrap();
    let store = from_the_file(&folder);
    assert!(path.with_extension("before-v2.db").exists());
    let item = store.get(&key(1)).await.unwrap().unwrap();
    assert_eq!((item.version, &item.body[..]), (3, &b"{\"amount\":100}"[..]));
    assert_eq!((item.counters["runs"], store.last_seq()), (2, 3));
    let sums = |n: u32| -> Option<i64> {
        let other = Connection::open(&path).unwrap();
        let sql = "SELECT sum FROM items WHERE id = ?";
        other.query_row(sql, [n], |row| row.get(0)).unwrap()
    };
    assert_eq!(sums(1), None);
    store.commit(put(1, Precondition::Version(3), "{}")).await.unwrap();
    assert!(sums(1).is_some());
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().version, 4);
}

fn log_bytes(store: &SqliteStore) -> u64 {
    std::fs::metadata(store.path().with_extension("db-wal")).unwrap().len()
}

#[tokio::test]
async fn a_log_that_a_slow_reader_held_is_cut_back_when_it_has_gone() {
    const LIMIT: u64 = 1 << 20;
    let folder = TempDir::new().unwrap();
    let options = Options { log_bytes: LIMIT, ..Options::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    store.commit(create(1, 10)).await.unwrap();
    let slow = Connection::open(store.path()).unwrap();
    slow.execute_batch("BEGIN; SELECT count(*) FROM items").unwrap();
    for n in 2..12 {
        store.commit(create(n, 1 << 20)).await.unwrap();
    }
    assert!(log_bytes(&store) > 8 * LIMIT, "while it reads the log can't begin anew");
    // What the thread does once a second, without waiting for it.
    let checkpoints = Checkpoints::new(store.path(), LIMIT);
    let mover = schema::open_mover(store.path()).unwrap();
    checkpoints.tidy(&mover).unwrap();
    let report = checkpoints.report();
    assert!(report.held && report.bytes > 8 * LIMIT, "{report:?}");
    slow.execute_batch("COMMIT").unwrap();
    checkpoints.tidy(&mover).unwrap();
    assert!(log_bytes(&store) <= LIMIT, "nothing was written since");
    assert_eq!((checkpoints.report().bytes, checkpoints.report().held), (0, false));
    store.commit(create(20, 10)).await.unwrap();
    for n in 1..12 {
        assert!(store.get(&key(n)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_busy_log_restarts_at_its_limit() {
    const LIMIT: u64 = 1 << 20;
    let folder = TempDir::new().unwrap();
    let options = Options { log_bytes: LIMIT, ..Options::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    let slow = Connection::open(store.path()).unwrap();
    store.commit(create(1, 10)).await.unwrap();
    slow.execute_batch("BEGIN; SELECT count(*) FROM items").unwrap();
    for n in 2..12 {
        store.commit(create(n, 1 << 20)).await.unwrap();
    }
    let large = log_bytes(&store);
    slow.execute_batch("COMMIT").unwrap();
    // The writer itself truncates the file when it restarts the log, without a pause.
    let mut n = 100;
    while log_bytes(&store) >= large && n < 2_000 {
        store.commit(create(n, 10_000)).await.unwrap();
        n += 1;
    }
    assert!(log_bytes(&store) < large, "still {large} bytes after {n} commits");
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended() {
    let folder = TempDir::new().unwrap();
    let store = from_the_file(&folder);
    let writes = |from: u32| {
        let put = |n: u32| {
            let item = NewItem {
                key: Key::new("P#long", n.to_string()),
                kind: "thing".into(),
                schema: 1,
                body: Bytes::new(),
                list: None,
                list2: None,
                due: None,
                expires: None,
            };
            Write::Put { item, expect: Precondition::Absent }
        };
        Commit { id: WriteId(from.into()), writes: (from..from + 100).map(put).collect() }
    };
    for from in (0..2_000).step_by(100) {
        store.commit(writes(from)).await.unwrap();
    }
    let path = store.path();
    let patient = Readers::open(path, 1, reader::MAX_READ).unwrap();
    assert_eq!(
        reader::collect(&patient.one(), "P#long", "", &IsAbandoned::default()).unwrap().len(),
        2_000
    );
    let impatient = Arc::new(Readers::open(path, 1, Duration::ZERO).unwrap());
    let ended =
        reader::collect(&impatient.one(), "P#long", "", &IsAbandoned::default()).unwrap_err();
    assert!(ended.to_string().contains("took longer"), "{ended}");
    // The connection still works.
    assert!(reader::get(&patient.one(), &Key::new("P#long", "7")).unwrap().is_some());
}
