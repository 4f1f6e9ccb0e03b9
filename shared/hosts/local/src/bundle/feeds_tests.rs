//! Tests of what a stop saves, and how batches are gathered.

use std::sync::Arc;

use tempfile::TempDir;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Entry, LedgerReader};
use watchbill_core::ports::Store;
use watchbill_core::service::{Core, Governance};
use watchbill_domain::{TaskId, TenantId};
use watchbill_governance::Policy;
use watchbill_sqlite::sqlite::{Options, SqliteStore};
use watchbill_testkit::{
    Failure, FakeClock, FaultyStore, MemoryBus, ScriptedStore, a_task, ports_over,
};

use super::super::position;
use super::*;

/// Work that needs no time on the test clock ends within this, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

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
        let new = a_task();
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    /// A reader from the saved position, whose recorder uses the store `through`.
    async fn recording(
        &self,
        through: Arc<dyn Store>,
        stopped: &watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + use<> {
        let recorder = Recorder::new(core(through, &self.clock), Arc::new(MemoryBus::new()));
        let feed = ChangeFeed::open(self.store.clone(), position::load(&self.store).await.unwrap());
        let checkpoint = FeedCheckpoint::new(self.core.clone(), self.store.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let watch = ReaderContext { clock, lag: Arc::default(), stopped: stopped.clone() };
        record(recorder, feed, checkpoint, watch)
    }

    async fn count(&self) -> usize {
        self.recorded().await.iter().map(Vec::len).sum()
    }

    /// Waits, without advancing the clock, until this many changes are recorded.
    async fn until_recorded(&self, changes: usize) {
        let waiting = async {
            while self.count().await < changes {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(TIMEOUT, waiting).await;
        assert!(waited.is_ok(), "{} of {changes} changes are recorded", self.count().await);
    }

    async fn end(&self, stop: &watch::Sender<bool>, recording: tokio::task::JoinHandle<()>) {
        stop.send_replace(true);
        while !recording.is_finished() {
            self.clock.advance(Duration::from_millis(50));
            tokio::task::yield_now().await;
        }
        recording.await.unwrap();
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
    let ports = ports_over(store, clock.clone(), 1);
    Core::new(ports, Arc::new(EngineConfig::default()), 1)
        .governed_by(Governance::fixed(Policy::without_gates()))
}

/// A stop while a batch can't be recorded ends the reader, and the next start records the batch.
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

    // Neither recorded nor parked, because the whole store fails.
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

/// A change after a silence is recorded at once. Later ones share batches, and none waits longer
/// than people notice.
#[tokio::test]
async fn changes_that_trickle_in_share_batches() {
    let world = World::new(FakeClock::default());
    let (stop, stopped) = watch::channel(false);
    let recording = tokio::spawn(world.recording(world.store.clone(), &stopped).await);
    world.create().await;
    world.until_recorded(1).await;
    // 36 changes a second for two seconds.
    let mut made = 1;
    for _ in 0..72 {
        sleeping(&world.clock).await;
        world.create().await;
        made += 1;
        world.clock.advance(Duration::from_millis(28));
    }
    world.clock.advance(Duration::from_millis(300));
    while world.count().await < made {
        tokio::task::yield_now().await;
        world.clock.advance(Duration::from_millis(5));
    }
    let batches = world.recorded().await;
    // In two seconds: no more batches than one each 250 ms, and no fewer.
    assert!((8..=12).contains(&batches.len()), "{} batches for {made} changes", batches.len());
    world.end(&stop, recording).await;
}

/// While many changes arrive, the wait is shorter. A batch that took long itself is followed
/// without a wait.
#[tokio::test]
async fn the_wait_between_batches_is_short_where_many_come_and_counts_from_their_beginning() {
    let world = World::new(FakeClock::default());
    let (stop, stopped) = watch::channel(false);
    let slow = Arc::new(ScriptedStore::new(world.store.clone()));
    let mut made = 0;
    for _ in 0..MANY {
        world.create().await;
        made += 1;
    }
    let recording = tokio::spawn(world.recording(slow.clone(), &stopped).await);
    world.until_recorded(made).await;
    // That batch had many entries: the next begins 100 ms after it began.
    sleeping(&world.clock).await;
    world.create().await;
    world.clock.advance(GATHER_MANY);
    world.until_recorded(made + 1).await;
    // That batch had one entry: the next begins 250 ms after it began.
    sleeping(&world.clock).await;
    world.create().await;
    world.clock.advance(GATHER_MANY);
    for _ in 0..50 {
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
    assert_eq!(world.count().await, made + 1, "it gathers");
    // Recording this batch takes longer than any wait would.
    let clock = world.clock.clone();
    slow.before_next_commit(Box::pin(async move { clock.advance(2 * GATHER_FEW) }));
    world.clock.advance(GATHER_FEW);
    world.until_recorded(made + 2).await;
    world.create().await;
    world.until_recorded(made + 3).await;
    world.end(&stop, recording).await;
}

/// Once the feed is quiet the counts are in one item, so no reader needs the ledger for them.
#[tokio::test]
async fn the_counts_are_kept_once_the_feed_is_quiet() {
    let world = World::new(FakeClock::default());
    let (stop, stopped) = watch::channel(false);
    let recording = tokio::spawn(world.recording(world.store.clone(), &stopped).await);
    for made in 1..=3 {
        world.create().await;
        world.until_recorded(made).await;
        sleeping(&world.clock).await;
        world.clock.advance(GATHER_FEW);
    }
    for _ in 0..50 {
        sleeping(&world.clock).await;
        world.clock.advance(KEEP_COUNTS);
        tokio::task::spawn_blocking(|| {}).await.unwrap();
    }
    assert_eq!(world.core.stats().queue().await.unwrap().queue.pending, 3);
    world.end(&stop, recording).await;
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
