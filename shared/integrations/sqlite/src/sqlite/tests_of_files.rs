//! Tests of a store whose files are removed, and of the next start.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use rusqlite::Connection;
use tempfile::TempDir;
use watchbill_core::ports::{CommitError, Key, Store as _};

use super::tests::create;
use super::{OpenError, Options, SqliteStore};

/// A store that reports its end instead of ending the process.
fn open(folder: &Path) -> (SqliteStore, Receiver<String>) {
    let (told, reasons) = mpsc::channel();
    let on_fatal = Arc::new(move |reason: &str| drop(told.send(reason.to_owned())));
    let options = Options { on_fatal, ..Options::default() };
    (SqliteStore::open(folder, options).unwrap(), reasons)
}

fn refused(folder: &Path) -> OpenError {
    match SqliteStore::open(folder, Options::default()) {
        Ok(_) => panic!("it opened as if nothing had happened"),
        Err(error) => error,
    }
}

const FILES: &[&str] = &["watchbill.db", "watchbill.db-wal", "watchbill.db-shm", "watchbill.lock"];

#[tokio::test]
async fn what_is_written_into_a_file_without_a_name_is_not_answered_and_kept_in_a_copy() {
    for name in FILES {
        for replaced in [false, true] {
            let folder = TempDir::new().unwrap();
            let (store, reasons) = open(folder.path());
            store.commit(create(1, 10)).await.unwrap();
            let file = folder.path().join(name);
            fs::remove_file(&file).unwrap();
            if replaced {
                fs::write(&file, "something else").unwrap();
            }
            let outcome = store.commit(create(2, 10)).await;
            assert!(matches!(outcome, Err(CommitError::Unknown { .. } | CommitError::Store(_))));
            let reason = reasons.recv().unwrap();
            assert!(reason.contains(name) && reason.contains("while it was in use"), "{reason}");
            let late = store.commit(create(3, 10)).await;
            assert!(matches!(late, Err(CommitError::Store(_))), "{late:?}");
            let copy = folder.path().join("watchbill.rescued-1.db");
            let elsewhere = TempDir::new().unwrap();
            fs::copy(&copy, elsewhere.path().join("watchbill.db")).unwrap();
            let (rescued, _) = open(elsewhere.path());
            let one = rescued.get(&Key::new("P#1", "0")).await.unwrap();
            assert!(one.is_some(), "{name}: what was answered is in the copy");
        }
    }
}

#[tokio::test]
async fn a_start_on_what_is_left_of_lost_files_sees_that_it_is_older() {
    let folder = TempDir::new().unwrap();
    let (store, reasons) = open(folder.path());
    store.commit(create(1, 10)).await.unwrap();
    let other = Connection::open(store.path()).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    // Answered after the last check, and only in the log.
    store.commit(create(2, 10)).await.unwrap();
    fs::remove_file(folder.path().join("watchbill.db-wal")).unwrap();
    store.commit(create(3, 10)).await.unwrap_err();
    reasons.recv().unwrap();
    let left = as_after_a_kill(folder.path(), &["watchbill.db", "watchbill.lock"]);
    let error = refused(left.path());
    // Unanswered commits are in the log too.
    assert!(matches!(error, OpenError::Older { found: 1, marked: 2 | 3, .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_goes_while_nothing_is_written_is_noticed_too() {
    let folder = TempDir::new().unwrap();
    let (_store, reasons) = open(folder.path());
    fs::remove_file(folder.path().join("watchbill.db")).unwrap();
    let reason = reasons.recv().unwrap();
    assert!(reason.contains("was removed"), "{reason}");
}

#[tokio::test]
async fn a_store_that_was_taken_over_stops_writing() {
    let folder = TempDir::new().unwrap();
    let (store, reasons) = open(folder.path());
    store.commit(create(1, 10)).await.unwrap();
    let other = Connection::open(store.path()).unwrap();
    other.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'", []).unwrap();
    let outcome = store.commit(create(2, 10)).await;
    assert!(outcome.is_err(), "{outcome:?}");
    let reason = reasons.recv().unwrap();
    assert!(reason.contains("another process has opened"), "{reason}");
    let written: i64 = other.query_row("SELECT count(*) FROM items", [], |r| r.get(0)).unwrap();
    assert_eq!(written, 1);
}

#[tokio::test]
async fn a_start_without_the_database_is_no_first_start() {
    let folder = TempDir::new().unwrap();
    let database = folder.path().join("watchbill.db");
    let (store, _) = open(folder.path());
    Arc::new(store).close().await;
    fs::remove_file(&database).unwrap();
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Lost { .. }), "{error}");
    assert!(!database.exists(), "nothing was made");
    // An empty file counts as missing.
    fs::write(&database, "").unwrap();
    let error = refused(folder.path());
    assert!(error.to_string().contains("watchbill.lock"), "{error}");

    for trace in ["admin.key", "watchbill.db-wal", "blobs/t/x", "watchbill.before-v2.db"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(trace);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
        let error = refused(folder.path());
        assert!(matches!(error, OpenError::Lost { .. }), "{trace}: {error}");
    }
    // These are left by a first start that was interrupted.
    let folder = TempDir::new().unwrap();
    for name in ["link.key", "watchbill.lock", "watchbill.db"] {
        fs::write(folder.path().join(name), if name == "link.key" { "x" } else { "" }).unwrap();
    }
    open(folder.path());
}

/// The files that a killed process leaves: the log is not moved.
fn as_after_a_kill(from: &Path, names: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in names {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[tokio::test]
async fn a_start_without_the_log_of_a_killed_process_is_refused() {
    let folder = TempDir::new().unwrap();
    let (store, _) = open(folder.path());
    store.commit(create(1, 10)).await.unwrap();
    // All data is in the log, so without it the database is blank.
    let killed = as_after_a_kill(folder.path(), &["watchbill.db", "watchbill.lock"]);
    let error = refused(killed.path());
    assert!(matches!(error, OpenError::Lost { .. } | OpenError::Older { .. }), "{error}");
    // The same after the log was moved once and more was written.
    let other = Connection::open(store.path()).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    store.commit(create(2, 10)).await.unwrap();
    assert!(store.shared.guard.look(&other, store.last_seq()).unwrap());
    let killed = as_after_a_kill(folder.path(), &["watchbill.db", "watchbill.lock"]);
    let error = refused(killed.path());
    assert!(matches!(error, OpenError::Older { found: 1, marked: 2, .. }), "{error}");
    // The operator can accept the loss by removing the lock file.
    fs::remove_file(killed.path().join("watchbill.lock")).unwrap();
    open(killed.path());
    // With the log, the store opens.
    let files = ["watchbill.db", "watchbill.db-wal", "watchbill.lock"];
    let killed = as_after_a_kill(folder.path(), &files);
    let (whole, _) = open(killed.path());
    assert_eq!(whole.last_seq(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn every_file_is_its_owners_alone_whoever_made_the_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = TempDir::new().unwrap();
    let open_to_all = |path: &Path| {
        let bits = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
    };
    open_to_all(folder.path());
    let (store, _) = open(folder.path());
    store.commit(create(1, 10)).await.unwrap();
    for name in FILES {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
    let copy = folder.path().join("copy.db");
    store.backup_to(&copy).await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    drop(store);
    // Files that were open to others, and those next to them.
    let blobs = folder.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    for name in ["admin.key", "link.key", "watchbill.before-v2.db"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    for entry in fs::read_dir(folder.path()).unwrap() {
        open_to_all(&entry.unwrap().path());
    }
    let (_store, _) = open(folder.path());
    crate::blobs::FolderBlobs::open(folder.path()).unwrap();
    for name in FILES.iter().chain(&["admin.key", "link.key", "watchbill.before-v2.db"]) {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&blobs), 0o700);
}
