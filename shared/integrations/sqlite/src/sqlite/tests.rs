//! Tests of the store with a manipulated writer connection, long reads and migrations.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rusqlite::Connection;
use tempfile::TempDir;
use watchbill_core::ports::{
    Commit, CommitError, Key, NewItem, Precondition, Store, StoreError, Write, WriteId,
};

use super::lock::Lock;
use super::{OpenError, Options, SqliteStore, schema};

pub(super) fn create(n: u32, size: usize) -> Commit {
    let item = NewItem {
        key: Key::new(format!("P#{n}"), "0"),
        kind: "thing".into(),
        schema: 1,
        body: Bytes::from(vec![0; size]),
        list: None,
        list2: None,
        due: None,
        expires: None,
    };
    let id = WriteId(u128::from(n) + 1);
    Commit { id, writes: vec![Write::Put { item, expect: Precondition::Absent }] }
}

/// A store with a manipulated writer connection.
fn tampered(
    folder: &TempDir,
    options: Options,
    tamper: impl FnOnce(&mut Connection),
) -> SqliteStore {
    let lock = Lock::take(folder.path()).unwrap();
    let path = folder.path().join("watchbill.db");
    let mut conn = schema::open_writer(&lock, &path, schema::MIGRATIONS).unwrap();
    let epoch = schema::bump_epoch(&conn, &path).unwrap();
    tamper(&mut conn);
    SqliteStore::start(lock, conn, path, epoch, options).unwrap()
}

/// Long reads wait for their turn without blocking the runtime's only thread, and short reads
/// go on meanwhile.
#[tokio::test]
async fn long_reads_are_bounded_and_short_ones_do_not_wait() {
    let folder = TempDir::new().unwrap();
    let options = Options { recent_bytes: 0, readers: 3, ..Options::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    // The last item stays in memory whatever the setting.
    for (n, size) in [(1, 100), (2, 100_000), (3, 16_384), (4, 16_385), (5, 1)] {
        store.commit(create(n, size)).await.unwrap();
    }
    let key = |n: u32| Key::new(format!("P#{n}"), "0");
    let (release, held) = mpsc::channel::<()>();
    let long_reads = store.long_reads.clone();
    let busy = tokio::spawn(async move { long_reads.run(move |_| held.recv().is_ok()).await });
    tokio::task::yield_now().await;
    let (large, both, listed) = (key(2), [key(1), key(3)], "P#1".to_owned());
    let mut large = store.get(&large);
    let mut both = store.get_many(&both);
    let mut listed = store.collect(&listed, "");
    assert!(large.as_mut().now_or_never().is_none(), "a large body was read right here");
    assert!(both.as_mut().now_or_never().is_none(), "many items were read right here");
    assert!(listed.as_mut().now_or_never().is_none(), "a partition was read right here");
    for (n, size) in [(1, 100), (3, 16_384)] {
        let item = store.get(&key(n)).now_or_never().expect("a short read needs nobody");
        assert_eq!(item.unwrap().unwrap().body.len(), size);
    }
    assert!(store.get(&key(9)).await.unwrap().is_none());
    assert!(store.get(&key(4)).now_or_never().is_none());
    release.send(()).unwrap();
    assert_eq!(large.await.unwrap().unwrap().body.len(), 100_000);
    let sizes = |items: Vec<watchbill_core::ports::Item>| {
        items.iter().map(|item| item.body.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(both.await.unwrap().into_iter().flatten().collect()), [100, 16_384]);
    assert_eq!(sizes(listed.await.unwrap()), [100]);
    assert!(busy.await.unwrap());
}

#[tokio::test]
async fn a_failed_commit_ends_it_all_and_leaves_the_outcome_open() {
    let folder = TempDir::new().unwrap();
    let (told, reasons) = mpsc::channel();
    let on_fatal = Arc::new(move |reason: &str| told.send(reason.to_owned()).unwrap());
    let options = Options { on_fatal, ..Options::default() };
    let store = tampered(&folder, options, |conn| {
        conn.commit_hook(Some(|| true)).unwrap();
    });
    let outcome = store.commit(create(1, 10)).await;
    assert!(matches!(outcome, Err(CommitError::Unknown { .. })), "{outcome:?}");
    assert!(reasons.recv().unwrap().starts_with("the store can't commit"));
    let later = store.commit(create(2, 10)).await;
    assert!(matches!(later, Err(CommitError::Store(StoreError::Down { .. }))), "{later:?}");
    assert_eq!(store.last_seq(), 0);
}

#[tokio::test]
async fn a_full_disk_is_said_so_and_what_was_there_stays() {
    let folder = TempDir::new().unwrap();
    let store = tampered(&folder, Options::default(), |conn| {
        conn.pragma_update(None, "max_page_count", 40).unwrap();
    });
    store.commit(create(1, 10)).await.unwrap();
    for n in 2..5 {
        match store.commit(create(n, 400_000)).await {
            Err(CommitError::Store(StoreError::Down { reason })) => {
                assert!(reason.contains("free some space"), "{reason}");
            }
            other => panic!("there is no room for it: {other:?}"),
        }
        assert_eq!(store.get(&Key::new(format!("P#{n}"), "0")).await.unwrap(), None);
    }
    store.commit(create(9, 10)).await.unwrap();
    assert_eq!(store.last_seq(), 2);
    let changes = store.changes(0, 10).await.unwrap();
    let keys: Vec<_> = changes.iter().map(|(_, change)| &*change.key.partition).collect();
    assert_eq!(keys, ["P#1", "P#9"]);
}

#[test]
fn a_migration_makes_a_copy_first_and_a_failed_one_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("watchbill.db");
    let lock = Lock::take(folder.path()).unwrap();
    drop(schema::open_writer(&lock, &path, schema::MIGRATIONS).unwrap());
    let version = |path| -> i64 {
        let conn = Connection::open(path).unwrap();
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    let first = schema::MIGRATIONS.len() as i64;
    let broken = [schema::MIGRATIONS, &["CREATE TABLE more (x); CREATE TABLE more (x)"]].concat();
    let error = schema::open_writer(&lock, &path, &broken).unwrap_err();
    assert!(matches!(error, OpenError::Sqlite { doing: "migrate", .. }), "{error}");
    assert_eq!(version(&path), first);
    let copy = path.with_extension(format!("before-v{}.db", first + 1));
    assert_eq!(version(&copy), first);
    let good = [schema::MIGRATIONS, &["CREATE TABLE more (x)"]].concat();
    drop(schema::open_writer(&lock, &path, &good).unwrap());
    assert_eq!((version(&path), version(&copy)), (first + 1, first));
}
