//! Several recorders at one tenant's ledger, each with other items, as with stream shards on
//! AWS: an item's events are still first published in order, even if another recorder replays
//! them.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::RunResult;
use watchbill_core::ports::{Change, Clock as _, Entropy as _};
use watchbill_core::repo::{Entity as _, ParkedKey, ParkedTenant};
use watchbill_domain::{Body, Priority, TaskId};
use watchbill_recorder::Recorder;
use watchbill_testkit::{Failure, FaultyStore, FlakyStore, SeededEntropy};

use crate::parked::assert_in_order;
use crate::world::*;

const SHARDS: usize = 3;

struct Sharded {
    world: World,
    faults: Arc<FaultyStore>,
    recorders: Vec<Recorder>,
    queues: Vec<VecDeque<Change>>,
    seen: u64,
}

impl Sharded {
    fn new(seed: u64) -> Self {
        let mut faults = None;
        let world = World::over(seed, |store| {
            let faulty = Arc::new(FaultyStore::new(store));
            faults = Some(faulty.clone());
            Arc::new(FlakyStore::new(faulty, seed, 3))
        });
        let recorders = (0..SHARDS).map(|_| world.recorder()).collect();
        let queues = vec![VecDeque::new(); SHARDS];
        Self { world, faults: faults.expect("it was made"), recorders, queues, seen: 0 }
    }

    /// All changes of an item are in one shard.
    fn read_feed(&mut self) {
        for (seq, change) in self.world.store.changes(self.seen, usize::MAX) {
            self.seen = seq;
            let mut hasher = DefaultHasher::new();
            change.key.partition.hash(&mut hasher);
            self.queues[hasher.finish() as usize % SHARDS].push_back(change);
        }
    }

    /// Each recorder takes some of its shard's changes, concurrently; failed batches are
    /// retried.
    async fn round(&mut self, most: usize) {
        self.read_feed();
        let batches: Vec<Vec<Change>> =
            self.queues.iter().map(|queue| queue.iter().take(most).cloned().collect()).collect();
        let (a, b, c) = tokio::join!(
            self.recorders[0].record(&batches[0]),
            self.recorders[1].record(&batches[1]),
            self.recorders[2].record(&batches[2]),
        );
        for (shard, done) in [a, b, c].into_iter().enumerate() {
            if done.is_ok() {
                self.queues[shard].drain(..batches[shard].len());
            }
        }
    }

    async fn ask(&self) {
        let now = self.world.clock.now();
        for item in self.world.store.items() {
            if *item.kind == *ParkedTenant::KIND && item.due.is_some_and(|due| due <= now) {
                _ = self.world.core.parking().ask(&item).await;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let parked = |kind: &str| [ParkedKey::KIND, ParkedTenant::KIND].contains(&kind);
        self.queues.iter().all(VecDeque::is_empty)
            && !self.world.store.items().iter().any(|item| parked(&item.kind))
    }

    async fn run(&self, id: &TaskId, succeeds: bool) {
        let ending = match succeeds {
            true => RunResult::Succeeded { result: Body::default() },
            false => RunResult::Failed { error: "no route".into(), retry: None },
        };
        let fence = self.world.claim(id).await;
        self.world.end(id, fence, ending).await;
    }
}

#[tokio::test]
async fn events_first_go_out_in_order_whichever_recorder_sends_them() {
    for seed in 0..12 {
        let mut sharded = Sharded::new(seed);
        let dice = SeededEntropy::new(seed + 2_000);
        let any = |below: u64| dice.next_u64() % below;
        let mut open: Vec<TaskId> = Vec::new();
        for _ in 0..80 {
            match any(12) {
                0 => sharded.faults.fail("T#default#led#", Failure::Down),
                1..=3 => sharded.faults.heal(),
                4 => {
                    let one = any(SHARDS as u64) as usize;
                    sharded.recorders[one] = sharded.world.recorder();
                }
                5 | 6 => sharded.ask().await,
                7 => sharded.world.bus.refuse_next(any(9) as usize),
                _ => {}
            }
            if open.len() < 4 || any(4) == 0 {
                open.push(sharded.world.create(Priority::P2).await);
            } else {
                let id = open[any(open.len() as u64) as usize].clone();
                let done = any(8) == 0;
                sharded.run(&id, done).await;
                open.retain(|other| !done || *other != id);
            }
            sharded.world.clock.advance(Duration::from_secs(any(40)));
            if any(3) > 0 {
                sharded.round(1 + any(9) as usize).await;
            }
        }
        sharded.faults.heal();
        sharded.world.bus.refuse_next(0);
        for n in 0.. {
            sharded.round(64).await;
            if sharded.is_quiet() {
                break;
            }
            assert!(n < 2_000, "seed {seed}: never done");
            if n % 10 == 9 {
                sharded.world.clock.advance(Duration::from_secs(15 * 60));
                sharded.ask().await;
            }
        }
        assert_in_order(sharded.world.bus.events());
        sharded.world.assert_whole().await;
    }
}
