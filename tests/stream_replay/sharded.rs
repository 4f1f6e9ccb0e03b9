//! One tenant's changes in several shards, as a table has from its first day on: one recorder
//! per shard, all at one ledger. Their conflicts are counted and bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{
    Change, Commit, CommitError, DueKey, Entropy as _, Item, Key, Page, Query, Store, StoreError,
};
use watchbill_core::service::{Core, Ports};
use watchbill_domain::{EventId, Priority, Timestamp, derived_uuid};
use watchbill_lambda::{LeftOut, StreamConsumer, StreamHandler};
use watchbill_recorder::Recorder;
use watchbill_testkit::{MemoryStore, SeededEntropy};

use super::record::record;
use super::shard::Shard;
use super::world::{World, tenant};

/// Records per batch that Lambda delivers.
const BATCH: usize = 25;

/// A store whose calls take time, so that others interleave. It counts appends and conflicts at
/// the ledger.
struct Far {
    inner: Arc<MemoryStore>,
    dice: SeededEntropy,
    appended: AtomicUsize,
    met: AtomicUsize,
    reads: AtomicUsize,
}

impl Far {
    async fn way(&self) {
        for _ in 0..self.dice.next_u64() % 6 {
            tokio::task::yield_now().await;
        }
    }

    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.way().await;
        let answer = call.await;
        self.way().await;
        answer
    }
}

#[async_trait]
impl Store for Far {
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
        let ledger = watchbill_core::repo::ledger_partition(&tenant());
        let appends = commit.writes.iter().any(|write| write.key().partition == ledger);
        self.way().await;
        let answer = self.inner.commit(commit).await;
        match (appends, &answer) {
            (true, Ok(())) => _ = self.appended.fetch_add(1, Ordering::Relaxed),
            (true, Err(_)) => _ = self.met.fetch_add(1, Ordering::Relaxed),
            (false, _) => {}
        }
        self.way().await;
        answer
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

/// Calls the recorder as its main does.
struct Invoked(Recorder);

#[async_trait]
impl StreamHandler for Invoked {
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        self.0.record_invocation(changes, left).await
    }

    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        self.0.keep(&left_out.key, left_out.version, reason).await
    }
}

/// As in DynamoDB, a shard has a range of the keys' hashes.
fn shard_of(change: &Change, shards: usize) -> usize {
    let first = derived_uuid(&["shard", &change.key.partition]).as_bytes()[0];
    usize::from(first) * shards / 256
}

fn split(changes: &[Change], shards: usize) -> Vec<Shard> {
    let mut split = vec![Vec::new(); shards];
    for (n, change) in changes.iter().enumerate() {
        split[shard_of(change, shards)].push(record(change, n + 1));
    }
    split.into_iter().map(|records| Shard::new(records, BATCH)).collect()
}

struct Counted {
    appended: usize,
    met: usize,
    /// Batches that were delivered again.
    again: usize,
    reads: usize,
    /// Repeated publications of events.
    repeated: usize,
}

async fn pump_dry<H: StreamHandler>(shard: &mut Shard, feed: &StreamConsumer<H>, world: &World) {
    while !shard.is_empty() {
        shard.hand_over(feed, &*world.clock, &world.calls).await;
    }
}

/// Runs several waves of changes, each through routers and recorders of all shards concurrently.
async fn pumped(seed: u64, shards: usize, waves: usize) -> Counted {
    let world = World::new(seed);
    let far = Arc::new(Far {
        inner: world.store.clone(),
        dice: SeededEntropy::new(seed + 77),
        appended: AtomicUsize::new(0),
        met: AtomicUsize::new(0),
        reads: AtomicUsize::new(0),
    });
    let recorder = || {
        let ports = Ports { store: far.clone(), ..world.ports.clone() };
        let core = Core::new(ports, world.core.rules().clone(), 1)
            .governed_by(world.core.governance().clone());
        let recorder = Recorder::new(core, world.bus.clone());
        StreamConsumer::new(Invoked(recorder), world.clock.clone(), "test")
    };
    let recorders: Vec<_> = (0..shards).map(|_| recorder()).collect();
    let routers: Vec<_> = (0..shards).map(|_| world.router()).collect();
    let (mut seen, mut again, mut references) = (0, 0, Vec::new());
    for wave in 0..waves {
        for n in 0..60 {
            world.create(Priority::ALL[n % 4], n % 5 == 0).await;
        }
        world.publish(wave).await;
        world.run_all().await;
        let changes = world.stream().split_off(seen);
        let (mut to_record, mut to_route) = (split(&changes, shards), split(&changes, shards));
        let wanted: usize = to_record.iter().map(|shard| shard.left().div_ceil(BATCH)).sum();
        let pairs = to_record.iter_mut().zip(&recorders);
        let recording = pairs.map(|(shard, recorder)| pump_dry(shard, recorder, &world));
        let pairs = to_route.iter_mut().zip(&routers);
        let routing = pairs.map(|(shard, router)| pump_dry(shard, router, &world));
        tokio::join!(join_all(recording), join_all(routing));
        again += to_record.iter().map(|shard| shard.invoked).sum::<usize>() - wanted;
        references.extend(world.lanes.take_all().into_iter().map(|(message, _)| message));
        world.note_images();
        seen = world.stream().len();
        world.assert_recorded().await;
    }
    world.assert_all_enqueued(&references);
    let mut times = BTreeMap::<EventId, usize>::new();
    for (_, event) in world.bus.events() {
        *times.entry(event.event_id).or_default() += 1;
    }
    Counted {
        appended: far.appended.load(Ordering::Relaxed),
        met: far.met.load(Ordering::Relaxed),
        again,
        reads: far.reads.load(Ordering::Relaxed),
        repeated: times.values().map(|times| times - 1).sum(),
    }
}

/// A backlog in each shard is the worst case: all recorders append all the time. Each append
/// makes every other recorder lose at most once, whatever their number.
#[tokio::test]
async fn recorders_of_many_shards_share_one_ledger() {
    for shards in [1, 4, 8] {
        for seed in 0..3 {
            let Counted { appended, met, again, reads, repeated } = pumped(seed, shards, 3).await;
            println!(
                "shards {shards} seed {seed}: {appended} batches appended, {met} times another was \
                 faster, {again} handed over again, {reads} reads, {repeated} events repeated"
            );
            if shards == 1 {
                assert_eq!((met, again, repeated), (0, 0, 0));
                continue;
            }
            assert!(met > 0, "the recorders never conflicted");
            assert!(met <= appended * (shards - 1), "{met} of {appended}");
            assert!(again <= appended / 4, "{again} of {appended} were handed over again");
            assert!(reads <= (appended + met) * 40, "{reads} reads");
        }
    }
}
