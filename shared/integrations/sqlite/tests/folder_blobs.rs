//! Runs the blob suite on files, and tests what they guarantee beyond it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tempfile::TempDir;
use watchbill_core::ports::{BlobError, BlobKey, Blobs};
use watchbill_domain::{TaskId, TenantId, Timestamp};
use watchbill_sqlite::blobs::FolderBlobs;
use watchbill_testkit::blobs_suite::BlobsUnderTest;

struct UnderTest {
    folder: TempDir,
    blobs: FolderBlobs,
}

impl UnderTest {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let blobs = FolderBlobs::open(folder.path()).unwrap();
        Self { folder, blobs }
    }

    async fn put(&self, task: &str) -> BlobKey {
        let key = key(task);
        self.blobs.put(&key, Bytes::from_static(b"result")).await.unwrap();
        key
    }

    fn path(&self, key: &BlobKey) -> PathBuf {
        self.folder.path().join("blobs").join(key.as_str())
    }
}

impl BlobsUnderTest for UnderTest {
    fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::new(self.blobs.clone())
    }
}

fn key(task: &str) -> BlobKey {
    BlobKey::of(&TenantId::default(), &TaskId::parse(task).unwrap(), b"result")
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(seconds * 1000).unwrap())
}

fn written_at(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

mod suite {
    use super::UnderTest;

    watchbill_testkit::blobs_suite!(async { UnderTest::new() });
}

#[tokio::test]
async fn blobs_outlive_the_process_and_half_written_ones_do_not() {
    let world = UnderTest::new();
    let key = world.put("t-1").await;
    let half = world.folder.path().join("blobs.half");
    fs::write(half.join("7"), b"resu").unwrap();
    let again = FolderBlobs::open(world.folder.path()).unwrap();
    assert!(!half.exists(), "what a crash left is cleared");
    assert_eq!(again.get(&key).await.unwrap().as_deref(), Some(&b"result"[..]));
    again.put(&key, Bytes::from_static(b"result")).await.unwrap();
    assert_eq!(fs::read_dir(&half).unwrap().count(), 0, "nothing is left half written");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = UnderTest::new();
    let file = world.path(&world.put("t-1").await);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for folder in file.ancestors().skip(1).take(3) {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
}

#[tokio::test]
async fn the_old_are_listed_and_a_repeat_is_young_again() {
    let world = UnderTest::new();
    assert_eq!(world.blobs.older_than(at(2_000)).await.unwrap(), [], "before the first blob");
    let (old, young) = (world.put("old").await, world.put("young").await);
    written_at(&world.path(&old), 1_000);
    written_at(&world.path(&young), 2_000);
    fs::write(world.folder.path().join("blobs/note.txt"), "not ours").unwrap();
    assert_eq!(world.blobs.older_than(at(2_000)).await.unwrap(), std::slice::from_ref(&old));
    world.put("old").await;
    assert!(!world.blobs.delete_older(&old, at(2_000)).await.unwrap(), "put again meanwhile");
    written_at(&world.path(&old), 1_000);
    assert!(world.blobs.delete_older(&old, at(2_000)).await.unwrap());
    assert!(!world.path(&old).parent().unwrap().exists(), "its folder goes with it");
    assert!(world.blobs.get(&young).await.unwrap().is_some());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said_with_its_path() {
    let world = UnderTest::new();
    fs::write(world.folder.path().join("blobs"), "a file in the way").unwrap();
    let refused = world.blobs.put(&key("t-1"), Bytes::from_static(b"result")).await;
    let Err(BlobError::Down { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("can't write") && reason.contains("blobs/default/t-1"), "{reason}");
}
