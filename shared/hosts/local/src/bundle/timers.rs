//! Periodic work: sweeps due items and removes expired ones.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{BlobKey, Clock, Store};
use watchbill_core::repo::blob_task_key;
use watchbill_domain::Timestamp;
use watchbill_sqlite::blobs::FolderBlobs;
use watchbill_sqlite::sqlite::SqliteStore;
use watchbill_sweeper::Sweeper;

use super::parked::Parked;

/// How many items one sweep checks.
const SWEEP_LIMIT: usize = 10_000;
/// How often expired items are removed, and how many at a time.
const KEEP_INTERVAL: Duration = Duration::from_secs(600);
const PURGE_LIMIT: usize = 1_000;
/// How long blobs are kept beyond their tasks: covers the time from writing a blob to its
/// commit.
const BLOB_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Sweeps due items periodically.
pub async fn sweep(
    sweeper: Sweeper,
    clock: Arc<dyn Clock>,
    every: Duration,
    parked: Arc<Parked>,
    mut stopped: watch::Receiver<bool>,
) {
    while wait(&clock, every, &mut stopped).await {
        let swept = sweeper.sweep(SWEEP_LIMIT).await;
        if let Ok(swept) = &swept {
            parked.set(swept.parked);
        }
        match swept {
            Ok(swept) if swept.changed + swept.failed > 0 => {
                tracing::debug!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::error!("the sweep failed: {error}"),
        }
    }
}

pub struct Retention {
    pub store: Arc<SqliteStore>,
    pub blobs: FolderBlobs,
    pub rules: Arc<EngineConfig>,
    pub clock: Arc<dyn Clock>,
}

impl Retention {
    pub async fn keep(self, mut stopped: watch::Receiver<bool>) {
        while wait(&self.clock, KEEP_INTERVAL, &mut stopped).await {
            let now = self.clock.now();
            if let Err(error) = self.items(now).await {
                tracing::warn!("expired items could not be removed: {error}");
            }
            match self.blobs(now).await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "blobs without a task removed"),
                Err(error) => tracing::warn!("blobs without a task could not be removed: {error}"),
            }
        }
    }

    async fn items(&self, now: Timestamp) -> anyhow::Result<()> {
        while self.store.purge_expired(now, PURGE_LIMIT).await? >= PURGE_LIMIT {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Deletes blobs whose task was removed or never created. A task outlives its blobs by
    /// `keep_tasks`, so younger ones need no check; a blob is written before its task.
    async fn blobs(&self, now: Timestamp) -> anyhow::Result<usize> {
        let old = now.minus(self.rules.keep_tasks.saturating_add(BLOB_MARGIN));
        let mut removed = 0;
        for blob in self.blobs.older_than(old).await? {
            // A panic over one of them does not stop the others.
            match AssertUnwindSafe(self.blob(&blob, old, now)).catch_unwind().await {
                Ok(deleted) => removed += usize::from(deleted?),
                Err(_) => tracing::error!(blob = blob.as_str(), "checking the blob panicked"),
            }
        }
        Ok(removed)
    }

    async fn blob(&self, blob: &BlobKey, old: Timestamp, now: Timestamp) -> anyhow::Result<bool> {
        let than = match blob_task_key(blob) {
            Some(task) if self.store.get(&task).await?.is_some() => return Ok(false),
            Some(_) => old,
            // Its name does not identify a task: decided by age alone, as on S3.
            None => now.minus(self.rules.keep_beside(None, now).since(now)),
        };
        Ok(self.blobs.delete_older(blob, than).await?)
    }
}

/// Returns false when the bundle stops.
async fn wait(
    clock: &Arc<dyn Clock>,
    every: Duration,
    stopped: &mut watch::Receiver<bool>,
) -> bool {
    if *stopped.borrow() {
        return false;
    }
    tokio::select! {
        () = clock.sleep(every) => true,
        _ = stopped.changed() => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use crate::wake::LocalWake;
    use serde_json::{Map, Value, json};
    use tempfile::TempDir;
    use watchbill_core::ports::Blobs as _;
    use watchbill_core::service::Governance;
    use watchbill_core::service::{Core, NewTask, Ports, StatusChange};
    use watchbill_domain::{Caller, Role, Status, TaskId, TenantId};
    use watchbill_governance::Policy;
    use watchbill_sqlite::sqlite::Options;
    use watchbill_testkit::{FakeClock, SeededEntropy, a_task};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    struct World {
        folder: TempDir,
        clock: Arc<FakeClock>,
        core: Core,
        retention: Retention,
    }

    impl World {
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let clock = Arc::new(FakeClock::default());
            let store = Arc::new(SqliteStore::open(folder.path(), Options::default()).unwrap());
            let blobs = FolderBlobs::open(folder.path()).unwrap();
            let rules = Arc::new(EngineConfig::default());
            let ports = Ports {
                store: store.clone(),
                blobs: Arc::new(blobs.clone()),
                clock: clock.clone(),
                entropy: Arc::new(SeededEntropy::new(1)),
                wake: Arc::new(LocalWake::new()),
            };
            let core = Core::new(ports, rules.clone(), 1)
                .governed_by(Governance::fixed(Policy::without_gates()));
            let retention = Retention { store, blobs, rules, clock: clock.clone() };
            Self { folder, clock, core, retention }
        }

        async fn create(&self, payload: Map<String, Value>) -> TaskId {
            let new = NewTask { payload, ..a_task() };
            self.core.tasks().create(new).await.unwrap().task.task.id
        }

        /// Completes the task with a result of this many bytes.
        async fn end(&self, id: &TaskId, bytes: usize) {
            let caller = Caller {
                name: "kim".into(),
                role: Role::Admin,
                tenant: TenantId::default(),
                made_by: None,
            };
            let result = Some(text(bytes));
            let change = StatusChange { status: Status::Completed, error: None, result };
            self.core.tasks().set_status(&caller, id, change).await.unwrap();
        }

        /// Sets the files' times by the test clock instead of the machine's clock.
        async fn age(&self) {
            let young = Timestamp::from_millis(i64::MAX / 2);
            for blob in self.retention.blobs.older_than(young).await.unwrap() {
                written_at(&self.folder.path().join("blobs").join(blob.as_str()), &self.clock);
            }
        }

        async fn keep(&self) -> usize {
            let now = self.clock.now();
            self.retention.items(now).await.unwrap();
            self.retention.blobs(now).await.unwrap()
        }
    }

    fn text(bytes: usize) -> Map<String, Value> {
        json!({ "text": "x".repeat(bytes) }).as_object().cloned().unwrap()
    }

    fn written_at(path: &Path, clock: &FakeClock) {
        let since = Duration::from_millis(clock.now().millis() as u64);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + since).unwrap();
    }

    /// A blob outlives its task by at most a day. Without a task it is removed with the first
    /// ones.
    #[tokio::test]
    async fn blobs_go_after_their_tasks() {
        let world = World::new();
        let (ended, open) = (world.create(Map::new()).await, world.create(text(150_000)).await);
        world.end(&ended, 150_000).await;
        let never = TaskId::parse("never").unwrap();
        for id in [never.as_str(), &"é".repeat(128)] {
            let lost = BlobKey::of(&TenantId::default(), &TaskId::parse(id).unwrap(), b"{}");
            world.retention.blobs.put(&lost, bytes::Bytes::from_static(b"{}")).await.unwrap();
        }
        world.age().await;
        world.clock.advance(90 * DAY + Duration::from_secs(1));
        assert_eq!(world.keep().await, 0, "the task is removed, its blob is still young");
        world.clock.advance(DAY);
        assert_eq!(
            world.keep().await,
            2,
            "of the task that ended, and of the one that never existed"
        );
        assert!(world.core.tasks().get(&TenantId::default(), &ended).await.is_err());
        let read = world.core.tasks().get(&TenantId::default(), &open).await.unwrap();
        assert_eq!(read.payload, text(150_000), "an open task keeps its payload");
        world.clock.advance(364 * DAY);
        assert_eq!(world.keep().await, 1, "by age alone if its name does not identify a task");
    }
}
