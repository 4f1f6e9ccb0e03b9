//! Tests `watchbill backup` with and without a busy server, and the restored copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use watchbill_core::service::Core;
use watchbill_domain::{Caller, Role, TenantId};

use super::{create, damage, open, payload};

/// Payloads of this many bytes are stored as blobs.
const LARGE: usize = 150_000;

/// Exit code, standard output and standard error.
fn backup(data: &Path, to: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_watchbill"))
        .env_clear()
        .args(["--json", "backup"])
        .arg(to)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Reads every task of the copy in full and returns how many there are.
async fn readable(core: &Core) -> usize {
    let (mut count, mut cursor) = (0, None);
    loop {
        let tenant = TenantId::default();
        let page = core.tasks().list(&tenant, &Default::default(), 100, cursor).await.unwrap();
        for listed in &page.entries {
            let task = core.tasks().get(&tenant, &listed.task.id).await.unwrap();
            assert_eq!(task.payload, payload(LARGE), "{}", listed.task.id);
        }
        count += page.entries.len();
        cursor = page.next;
        if cursor.is_none() {
            return count;
        }
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            // The shared memory file next to the write-ahead log holds its readers, not data.
            false if path.extension().is_some_and(|is| is == "db-shm") => {}
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_next_to_a_busy_writer_ends_and_has_each_headers_blob() {
    let (data, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (core, store) = open(data.path(), 1);
    let mut before = Vec::new();
    for _ in 0..5 {
        before.push(create(&core, LARGE).await);
    }
    fs::write(data.path().join("admin.key"), "secret\n").unwrap();
    // It never pauses, so a copy that restarted at each commit would never end.
    let stop = Arc::new(AtomicBool::new(false));
    let busy = tokio::spawn({
        let (core, stop) = (core.clone(), stop.clone());
        async move {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                create(&core, LARGE).await;
                made += 1;
            }
            made
        }
    });
    let copy = copies.path().join("2026-11-30");
    let done = tokio::task::spawn_blocking({
        let (data, copy) = (data.path().to_owned(), copy.clone());
        move || backup(&data, &copy)
    });
    let (code, out, err) = done.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let meanwhile: usize = busy.await.unwrap();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(meanwhile > 0, "writes continued during the backup");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["faults"]["count"], 0, "{said}");
    assert!(!copies.path().join("2026-11-30.half").exists());
    assert!(!copy.join("admin.key").exists(), "keys are not copied");
    #[cfg(unix)]
    for path in files(&copies.path().join("2026-11-30")).keys().chain([&copy, &copy.join("blobs")])
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    store.close().await;

    let (restored, store) = open(&copy, 2);
    for id in &before {
        restored.tasks().get(&TenantId::default(), id).await.unwrap();
    }
    let count = readable(&restored).await;
    assert!((before.len()..=before.len() + meanwhile).contains(&count), "{count}");
    create(&restored, 10).await;
    drop((restored, store));

    // An item that was damaged later is copied as it is, and named.
    damage(&copy.join("watchbill.db"), &before[0]);
    let (code, out, err) = backup(&copy, &copies.path().join("of the copy"));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"count\":1") && err.contains(before[0].as_str()), "{out}{err}");
}

#[tokio::test]
async fn a_copy_of_what_a_killed_process_left_changes_nothing_there() {
    let (data, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (core, store) = open(data.path(), 1);
    let id = create(&core, LARGE).await;
    // Everything is still in the write-ahead log, as after a kill.
    let killed = copies.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for (path, bytes) in files(data.path()) {
        let to = killed.join(path.strip_prefix(data.path()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    drop((core, store));
    let as_left = files(&killed);
    assert!(as_left[&killed.join("watchbill.db-wal")].len() > 4096);
    let copy = copies.path().join("deep/copy");
    let (code, _, err) = backup(&killed, &copy);
    assert_eq!(code, Some(0), "{err}");
    assert!(files(&killed) == as_left, "the backup changed its source");
    let (restored, _store) = open(&copy, 2);
    assert_eq!(
        restored.tasks().get(&TenantId::default(), &id).await.unwrap().payload,
        payload(LARGE)
    );
}

/// A task's blobs are removed before its item, and a copy may be made between the two.
#[tokio::test]
async fn a_task_that_expired_while_it_was_copied_is_not_damaged() {
    let (data, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (core, _store) = open(data.path(), 1);
    let id = create(&core, LARGE).await;
    let caller = Caller {
        name: "alex".into(),
        role: Role::Admin,
        tenant: TenantId::default(),
        made_by: None,
    };
    core.tasks().cancel(&caller, &id, None).await.unwrap();
    fs::remove_dir_all(data.path().join("blobs")).unwrap();
    let faults = |to: &str, now| {
        let copied = watchbill_sqlite::backup::backup(data.path(), &copies.path().join(to), now);
        copied.unwrap().faults.count
    };
    let now = core.clock().now();
    assert_eq!(faults("before", now), 1);
    assert_eq!(faults("after", now.plus(Duration::from_secs(400 * 24 * 60 * 60))), 0);
}

#[tokio::test]
async fn a_copy_never_takes_the_place_of_anything() {
    let (data, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let to = copies.path().join("copy");
    let (code, _, err) = backup(data.path(), &to);
    assert_eq!(code, Some(2));
    assert!(err.contains("name the data folder with --data"), "{err}");
    assert!(files(copies.path()).is_empty());

    let (_core, _store) = open(data.path(), 1);
    assert_eq!(backup(data.path(), &to).0, Some(0));
    let first = files(&to);
    let (code, _, err) = backup(data.path(), &to);
    assert_eq!(code, Some(2));
    assert!(err.contains("already exists"), "{err}");
    assert!(files(&to) == first);

    fs::create_dir(copies.path().join("next.half")).unwrap();
    let (code, _, err) = backup(data.path(), &copies.path().join("next"));
    assert_eq!(code, Some(2));
    assert!(err.contains("interrupted copy"), "{err}");

    // A backup that fails leaves nothing behind: this file is no database.
    let broken = TempDir::new().unwrap();
    fs::write(broken.path().join("watchbill.db"), "no database at all ".repeat(400)).unwrap();
    let (code, _, err) = backup(broken.path(), &copies.path().join("broken"));
    assert_eq!(code, Some(2), "{err}");
    assert!(!copies.path().join("broken").exists() && !copies.path().join("broken.half").exists());
}
