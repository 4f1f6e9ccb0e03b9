//! How long a sweep takes over a store behind a network, and which shards get a turn if that is
//! too long.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use watchbill_core::ports::{CommitError, DueKey, Item, Page, Query, Store, StoreError};

use super::*;

/// The time that the function has for a sweep.
const TIME: Duration = Duration::from_secs(22);

/// A store each of whose calls takes time.
struct Slow {
    inner: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    takes: Duration,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
        self.clock.sleep(self.takes).await;
        let answer = call.await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}

#[async_trait]
impl Store for Slow {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.call(self.inner.get(key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.call(self.inner.get_many(keys)).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.call(self.inner.collect(partition, prefix)).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.call(self.inner.commit(commit)).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.call(self.inner.query(query)).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.call(self.inner.due(shard, until, limit, cursor)).await
    }
}

struct Remote {
    store: Arc<MemoryStore>,
    slow: Arc<Slow>,
    clock: Arc<FakeClock>,
    lanes: Arc<MemoryLanes>,
    core: Core,
}

impl Remote {
    /// Creates this many due tasks.
    async fn new(tasks: usize, takes: Duration) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::default());
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (inner, own) = (store.clone(), clock.clone());
        let slow = Arc::new(Slow { inner, clock: own, takes, running, most });
        let core = |store: Arc<dyn Store>| {
            let ports = ports_over(store, clock.clone(), 1);
            Core::new(ports, Arc::new(EngineConfig::default()), 1)
                .governed_by(Governance::fixed(Policy::without_gates()))
        };
        let near = core(store.clone());
        for _ in 0..tasks {
            near.tasks().create(NewTask { priority: Priority::P2, ..a_task() }).await.unwrap();
        }
        clock.advance(Duration::from_secs(20 * 60));
        let core = core(slow.clone());
        Self { store, slow, clock, lanes: Arc::new(MemoryLanes::new()), core }
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.core.clone(), self.lanes.clone())
    }

    /// Runs one sweep. Returns how many items were checked, and how long it took. The clock
    /// advances when everything waits for it.
    async fn sweep(&self, sweeper: &Sweeper) -> (usize, Duration) {
        let clock = &*self.clock;
        let began = clock.monotonic();
        let mut sweep = pin!(sweeper.sweep_within(100_000, TIME));
        let swept = loop {
            tokio::select! {
                biased;
                swept = &mut sweep => break swept.unwrap(),
                () = tokio::task::yield_now() => { clock.advance_to_next(); }
            }
        };
        (swept.looked_at, clock.monotonic() - began)
    }

    /// Tasks that no sweep has checked.
    fn untouched(&self) -> usize {
        let items = self.store.items();
        items.iter().filter(|item| &*item.kind == "task" && item.version == 1).count()
    }
}

#[tokio::test]
async fn a_thousand_due_tasks_are_done_within_a_call() {
    let remote = Remote::new(1_000, Duration::from_millis(20)).await;
    let (looked_at, took) = remote.sweep(&remote.sweeper()).await;
    assert_eq!((looked_at, remote.untouched()), (1_000, 0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let most = remote.slow.most.load(Ordering::Relaxed);
    assert!((9..=32).contains(&most), "{most} calls at once");
}

/// There is always more due than one call can handle: each shard gets its turn, also where each
/// call is a new process.
#[tokio::test]
async fn a_sweep_ends_in_time_and_no_shard_starves() {
    for anew in [false, true] {
        let remote = Remote::new(2_560, Duration::from_millis(400)).await;
        let mut sweeper = remote.sweeper();
        let mut sweeps = 0;
        while remote.untouched() > 0 {
            sweeps += 1;
            let left = remote.untouched();
            assert!(sweeps <= 40, "anew: {anew}: {left} have no turn");
            if anew {
                sweeper = remote.sweeper();
            }
            let (_, took) = remote.sweep(&sweeper).await;
            // A check that has begun is completed; the function reserves eight seconds for that
            // and its metrics.
            assert!(took <= TIME + 3 * remote.slow.takes, "{took:?}");
            // All checked items are due again.
            let next = remote.clock.now().millis() / 60_000 + 1;
            let next = Timestamp::from_millis((next + 60) * 60_000);
            remote.clock.advance(next.since(remote.clock.now()));
        }
        assert!(sweeps > 2, "there was time for all: {sweeps}");
    }
}
