//! What a stop keeps, and how batches gather.

use std::sync::Arc;

use serde_json::Map;
use tempfile::TempDir;
use watchbill_adapters_local::bus::LocalBus;
use watchbill_adapters_local::sqlite::{Options, SqliteStore};
use watchbill_adapters_local::wake::LocalWake;
use watchbill_core::decide::Rules;
use watchbill_core::domain::{Priority, TaskId, TaskType, TenantId};
use watchbill_core::govern::Policy;
use watchbill_core::ledger::{Entry, LedgerReader};
use watchbill_core::ports::Store;
use watchbill_core::service::{Core, Governance, Identity, NewTask, Ports};
use watchbill_testkit::{Failure, FakeClock, FaultyStore, MemoryBlobs, SeededEntropy};

use super::super::position;
use super::*;

struct World {
    _folder: TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<FakeClock>,
    core: Core,
}

impl World {
    fn new(clock: FakeClock) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path(), Options::default()).unwrap());
        let clock = Arc::new(clock);
        let core = core(store.clone(), &clock);
        Self { _folder: folder, store, clock, core }
    }

    async fn create(&self) -> TaskId {
        let new = NewTask {
            tenant: TenantId::default(),
            task_type: TaskType::Monitor,
            priority: Priority::P2,
            source: "user".into(),
            payload: Map::new(),
            metadata: Map::new(),
            sla_target: None,
            sla_deadline: None,
            parent: None,
            trace_id: None,
            max_retries: None,
            created_by: "alex".into(),
            also_requested_by: Vec::new(),
            identity: Identity::Fresh,
            hops: 0,
        };
        self.core.create_task(new).await.unwrap().task.task.id
    }

    /// A reader of the feed from where the last one stopped, whose recorder reaches the store
    /// through another.
    async fn recording(
        &self,
        through: Arc<dyn Store>,
        stopped: &watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        let recorder =
            Recorder::new(core(through, &self.clock), Arc::new(LocalBus::new(Vec::new())));
        let feed = Feed::open(self.store.clone(), position::load(&self.store).await.unwrap());
        let keeper = Keeper::new(self.core.clone(), self.store.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let watch = Watch { clock, lag: Arc::default(), stopped: stopped.clone() };
        record(recorder, feed, keeper, watch)
    }

    async fn recorded(&self) -> Vec<Vec<TaskId>> {
        let ledger = LedgerReader::new(self.store.clone(), TenantId::default());
        let mut batches = Vec::new();
        while let Some(batch) = ledger.batch(batches.len() as u64 + 1).await.unwrap() {
            let task = |entry: &Entry| match entry {
                Entry::Task(entry) => Some(entry.task.clone()),
                _ => None,
            };
            batches.push(batch.entries.iter().filter_map(task).collect());
        }
        batches
    }
}

fn core(store: Arc<dyn Store>, clock: &Arc<FakeClock>) -> Core {
    let ports = Ports {
        store,
        blobs: Arc::new(MemoryBlobs::new()),
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::new(1)),
        wake: Arc::new(LocalWake::new()),
    };
    Core::new(ports, Arc::new(Rules::default()), 1)
        .governed_by(Governance::fixed(Policy::without_gates()))
}

/// Told to stop while a batch can't be recorded, it ends, and the next start takes the batch up.
#[tokio::test]
async fn a_stop_keeps_no_position_beyond_what_is_recorded() {
    let world = World::new(FakeClock::auto(FakeClock::default().now()));
    let (stop, stopped) = watch::channel(false);
    let first = world.create().await;
    let faulty = Arc::new(FaultyStore::new(world.store.clone()));
    stop.send_replace(true);
    world.recording(faulty.clone(), &stopped).await.await;
    assert_eq!(world.recorded().await, [vec![first.clone()]]);
    let kept = position::load(&world.store).await.unwrap();
    assert!(kept > 0);

    // Neither recorded nor parked: the whole store fails.
    let second = world.create().await;
    faulty.fail("", Failure::Down);
    world.recording(faulty.clone(), &stopped).await.await;
    let after = position::load(&world.store).await.unwrap();
    assert_eq!(world.recorded().await.len(), 1);
    assert_eq!(after, kept, "the position stays before what is not recorded");

    faulty.heal();
    world.recording(faulty, &stopped).await.await;
    assert_eq!(world.recorded().await, [vec![first], vec![second]]);
}

/// A change after a silence is recorded at once; those that trickle in after it share batches,
/// and none waits longer than people notice.
#[tokio::test]
async fn changes_that_trickle_in_share_batches() {
    let world = World::new(FakeClock::default());
    let (stop, stopped) = watch::channel(false);
    let recording = tokio::spawn(world.recording(world.store.clone(), &stopped).await);
    world.create().await;
    let all = async || world.recorded().await.iter().map(Vec::len).sum::<usize>();
    while all().await < 1 {
        tokio::task::yield_now().await;
    }
    // 36 changes a second for two seconds.
    let mut made = 1;
    for _ in 0..72 {
        sleeping(&world.clock).await;
        world.create().await;
        made += 1;
        world.clock.advance(Duration::from_millis(28));
    }
    world.clock.advance(Duration::from_millis(300));
    while all().await < made {
        tokio::task::yield_now().await;
        world.clock.advance(Duration::from_millis(5));
    }
    let batches = world.recorded().await;
    assert!(batches.len() <= 12, "{} batches for {made} changes", batches.len());
    stop.send_replace(true);
    while !recording.is_finished() {
        world.clock.advance(Duration::from_millis(50));
        tokio::task::yield_now().await;
    }
    recording.await.unwrap();
}

/// Waits until the reader sleeps between two batches, or for changes.
async fn sleeping(clock: &FakeClock) {
    for _ in 0..50 {
        if clock.sleepers() > 0 {
            return;
        }
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
}
