//! Looks at what is due, and removes what has expired.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use watchbill_core::decide::Rules;
use watchbill_core::ports::{BlobKey, Clock, Store};
use watchbill_core::repo::blob_task_key;
use watchbill_domain::Timestamp;
use watchbill_sqlite::blobs::FolderBlobs;
use watchbill_sqlite::sqlite::SqliteStore;
use watchbill_sweeper::Sweeper;

use super::parked::Parked;

/// Items looked at in one sweep.
const SWEEP: usize = 10_000;
/// What has expired is removed this often, so many items at a time.
const KEEP_EVERY: Duration = Duration::from_secs(600);
const PURGE: usize = 1_000;
/// What blobs are kept beyond the time of their tasks: from writing one to its commit.
const BLOB_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks at what is due, again and again.
pub async fn sweep(
    sweeper: Sweeper,
    clock: Arc<dyn Clock>,
    every: Duration,
    parked: Arc<Parked>,
    mut stopped: watch::Receiver<bool>,
) {
    while wait(&clock, every, &mut stopped).await {
        let swept = sweeper.sweep(SWEEP).await;
        if let Ok(swept) = &swept {
            parked.set(swept.parked);
        }
        match swept {
            Ok(swept) if swept.changed + swept.failed > 0 => {
                tracing::debug!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::error!("nothing can be swept: {error}"),
        }
    }
}

/// Removes what has expired.
pub struct Keeper {
    pub store: Arc<SqliteStore>,
    pub blobs: FolderBlobs,
    pub rules: Arc<Rules>,
    pub clock: Arc<dyn Clock>,
}

impl Keeper {
    pub async fn keep(self, mut stopped: watch::Receiver<bool>) {
        while wait(&self.clock, KEEP_EVERY, &mut stopped).await {
            let now = self.clock.now();
            if let Err(error) = self.items(now).await {
                tracing::warn!("expired items are not removed: {error}");
            }
            match self.blobs(now).await {
                Ok(0) => {}
                Ok(gone) => tracing::debug!(gone, "blobs without a task removed"),
                Err(error) => tracing::warn!("blobs without a task are not removed: {error}"),
            }
        }
    }

    async fn items(&self, now: Timestamp) -> anyhow::Result<()> {
        while self.store.purge_expired(now, PURGE).await? >= PURGE {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Blobs whose task is gone, or never came to be. A task outlives its blobs by
    /// `keep_tasks`, so younger ones need no look; and a blob is written before its task.
    async fn blobs(&self, now: Timestamp) -> anyhow::Result<usize> {
        let old = now.minus(self.rules.keep_tasks.saturating_add(BLOB_MARGIN));
        let mut gone = 0;
        for blob in self.blobs.older_than(old).await? {
            // A fault over one of them keeps the others from nothing.
            match AssertUnwindSafe(self.blob(&blob, old, now)).catch_unwind().await {
                Ok(deleted) => gone += usize::from(deleted?),
                Err(_) => tracing::error!(blob = blob.as_str(), "looking at a blob broke off"),
            }
        }
        Ok(gone)
    }

    async fn blob(&self, blob: &BlobKey, old: Timestamp, now: Timestamp) -> anyhow::Result<bool> {
        let than = match blob_task_key(blob) {
            Some(task) if self.store.get(&task).await?.is_some() => return Ok(false),
            Some(_) => old,
            // Its name does not say whose it is: by age alone, as on S3.
            None => now.minus(self.rules.keep_beside(None, now).since(now)),
        };
        Ok(self.blobs.delete_older(blob, than).await?)
    }
}

/// False when the bundle stops.
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
        keeper: Keeper,
    }

    impl World {
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let clock = Arc::new(FakeClock::default());
            let store = Arc::new(SqliteStore::open(folder.path(), Options::default()).unwrap());
            let blobs = FolderBlobs::open(folder.path()).unwrap();
            let rules = Arc::new(Rules::default());
            let ports = Ports {
                store: store.clone(),
                blobs: Arc::new(blobs.clone()),
                clock: clock.clone(),
                entropy: Arc::new(SeededEntropy::new(1)),
                wake: Arc::new(LocalWake::new()),
            };
            let core = Core::new(ports, rules.clone(), 1)
                .governed_by(Governance::fixed(Policy::without_gates()));
            let keeper = Keeper { store, blobs, rules, clock: clock.clone() };
            Self { folder, clock, core, keeper }
        }

        async fn create(&self, payload: Map<String, Value>) -> TaskId {
            let new = NewTask { payload, ..a_task() };
            self.core.tasks().create(new).await.unwrap().task.task.id
        }

        /// Ends it with a result of so many bytes.
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

        /// The files are as old as the clock has it, not as the machine has it.
        async fn age(&self) {
            let young = Timestamp::from_millis(i64::MAX / 2);
            for blob in self.keeper.blobs.older_than(young).await.unwrap() {
                written_at(&self.folder.path().join("blobs").join(blob.as_str()), &self.clock);
            }
        }

        async fn keep(&self) -> usize {
            let now = self.clock.now();
            self.keeper.items(now).await.unwrap();
            self.keeper.blobs(now).await.unwrap()
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

    /// A blob lives as long as its task, and no longer than a day longer; one whose task never
    /// came to be goes with the first.
    #[tokio::test]
    async fn blobs_go_after_their_tasks() {
        let world = World::new();
        let (ended, open) = (world.create(Map::new()).await, world.create(text(150_000)).await);
        world.end(&ended, 150_000).await;
        let never = TaskId::parse("never").unwrap();
        for id in [never.as_str(), &"é".repeat(128)] {
            let lost = BlobKey::of(&TenantId::default(), &TaskId::parse(id).unwrap(), b"{}");
            world.keeper.blobs.put(&lost, bytes::Bytes::from_static(b"{}")).await.unwrap();
        }
        world.age().await;
        world.clock.advance(90 * DAY + Duration::from_secs(1));
        assert_eq!(world.keep().await, 0, "the task is gone, its blob is still young");
        world.clock.advance(DAY);
        assert_eq!(world.keep().await, 2, "of the task that ended, and of the one that never was");
        assert!(world.core.tasks().get(&TenantId::default(), &ended).await.is_err());
        let read = world.core.tasks().get(&TenantId::default(), &open).await.unwrap();
        assert_eq!(read.payload, text(150_000), "an open task keeps its payload");
        world.clock.advance(364 * DAY);
        assert_eq!(world.keep().await, 1, "by age alone where the name does not say whose it is");
    }
}
