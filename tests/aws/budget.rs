//! Contention on single rows of the table: reservations under one cap, and completions of one
//! agent, which must share no row.
//!
//! `WATCHBILL_RESERVATIONS` and `WATCHBILL_COMPLETIONS` set how many (soak: 10,000 completions).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use watchbill_core::decide::{Command, EngineConfig, RunResult};
use watchbill_core::ports::{Clock, Commit, CommitError, DueKey, Item, Key, Page, Query};
use watchbill_core::ports::{Store, StoreError};
use watchbill_core::service::{Core, Ports};
use watchbill_domain::{Body, Outcome, ReputationEvent, Timestamp};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_testkit::MemoryWake;
use watchbill_testkit::governance_suite::{self as suite, running, tenant};

use super::emulator::number;
use super::world::World;

const RESERVATIONS: u64 = 1_000;
const COMPLETIONS: u64 = 640;
const MAX_CONCURRENT_CALLS: usize = 64;

/// A clock that starts in the morning of a fixed day, runs like the system clock and can jump.
struct Jumping {
    inner: SystemClock,
    /// The sum of all jumps, in milliseconds.
    ahead: AtomicU64,
}

impl Jumping {
    fn new() -> Self {
        Self { inner: SystemClock::new(), ahead: AtomicU64::new(0) }
    }

    fn skip(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).expect("a short time");
        self.ahead.fetch_add(millis, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        // 2026-03-02T10:00:00Z: no hour and no day ends during the test.
        Timestamp::from_millis(1_772_445_600_000).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic() + Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration).await;
    }
}

/// Counts commits and conflicts.
struct Counting {
    inner: Arc<dyn Store>,
    commits: AtomicU64,
    conflicts: AtomicU64,
}

impl Counting {
    fn figures(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.conflicts.load(Ordering::Relaxed))
    }
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.inner.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.inner.collect(partition, prefix).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let answer = self.inner.commit(commit).await;
        if let Err(CommitError::Conflict { .. } | CommitError::Busy { .. }) = &answer {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.inner.query(query).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.inner.due(shard, until, limit, cursor).await
    }
}

/// A core over the emulated table, with a clock that can jump.
fn core_over(world: &World) -> (Core, Arc<Jumping>, Arc<Counting>) {
    let clock = Arc::new(Jumping::new());
    let store = Arc::new(Counting {
        inner: world.truth.store().clone(),
        commits: AtomicU64::new(0),
        conflicts: AtomicU64::new(0),
    });
    let ports = Ports {
        store: store.clone(),
        blobs: world.truth.context().blobs().clone(),
        clock: clock.clone(),
        // Transaction tokens must differ from those of earlier test runs for ten minutes.
        entropy: Arc::new(SystemEntropy),
        wake: Arc::new(MemoryWake::new()),
    };
    (Core::new(ports, Arc::new(EngineConfig::default()), 1), clock, store)
}

fn many(name: &str, default: u64) -> usize {
    usize::try_from(number(name).unwrap_or(default)).expect("it fits")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reservations_stop_at_the_cap() {
    let world = World::make(1).await;
    let (core, clock, store) = core_over(&world);
    let tasks = many("WATCHBILL_RESERVATIONS", RESERVATIONS);
    suite::reservations_stop_at_the_cap(&core, &|by| clock.skip(by), tasks, MAX_CONCURRENT_CALLS)
        .await;
    let (commits, met) = store.figures();
    println!(
        "budget: {tasks} reservations, {MAX_CONCURRENT_CALLS} at once: {met} of {commits} commits met"
    );
    world.stack.remove().await;
}

#[tokio::test]
async fn what_is_recorded_counts_within_a_second() {
    let world = World::make(2).await;
    let (core, clock, _) = core_over(&world);
    suite::what_is_recorded_counts_within_a_second(&core, &|by| clock.skip(by)).await;
    world.stack.remove().await;
}

/// No row is written by all completions: the score change is stored in the task's header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_of_one_agent_do_not_conflict() {
    let world = World::make(3).await;
    let (core, _, store) = core_over(&world);
    let all = many("WATCHBILL_COMPLETIONS", COMPLETIONS);
    let mut completers = JoinSet::new();
    for first in 0..MAX_CONCURRENT_CALLS {
        let core = core.clone();
        completers.spawn(async move {
            for n in (first..all).step_by(MAX_CONCURRENT_CALLS) {
                complete(&core, n).await;
            }
        });
    }
    completers.join_all().await;
    let (commits, met) = store.figures();
    println!(
        "budget: {all} completions of one agent, {MAX_CONCURRENT_CALLS} at once: {met} of {commits} commits met"
    );
    assert_eq!(commits, 3 * all as u64 + met, "created, claimed, completed");
    assert!(met * 100 <= commits, "{met} of {commits} commits met another");
    world.stack.remove().await;
}

async fn complete(core: &Core, n: usize) {
    let (id, fence) = running(core, n).await;
    let score_delta = core.rules().reputation.score_delta(ReputationEvent::TaskSuccess);
    let outcome = Outcome { reputation: vec![score_delta], ..Outcome::default() };
    let ending = RunResult::Succeeded { result: Body::default() };
    let (events, notes) = (Vec::new(), Vec::new());
    let end = Command::End { fence, ending, events, notes, outcome };
    core.tasks().command(&tenant(), &id, &end).await.expect("nobody else has it");
}
