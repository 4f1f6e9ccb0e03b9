//! A benchmark that puts a store under the load of tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use watchbill_core::ports::{
    Clock, Commit, Entropy, Key, ListEntry, NewItem, Precondition, Store, Write,
};
use watchbill_domain::Timestamp;

/// The size of a plain task's header.
const HEADER_BYTES: usize = 700;

/// What a run of [`store_loop`] measured.
#[derive(Clone, Debug)]
pub struct LoopReport {
    pub tasks: u64,
    pub elapsed: Duration,
    pub tasks_per_second: f64,
    /// Median latency of one commit.
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Takes `tasks` tasks through create, claim and complete, `in_flight` at a time: three commits
/// of one 700-byte item with an entry in the first list. Only the last commit removes its due
/// time.
pub async fn store_loop(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    in_flight: usize,
    tasks: u64,
) -> LoopReport {
    let next = Arc::new(AtomicU64::new(0));
    let start = clock.monotonic();
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let worker = Worker {
                store: store.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                body: Bytes::from(vec![b'x'; HEADER_BYTES]),
                list: "T#default#task#list#0".into(),
            };
            tokio::spawn(worker.run(next.clone(), tasks))
        })
        .collect();
    let mut waits = Vec::new();
    for worker in workers {
        waits.extend(worker.await.expect("a worker of the loop has panicked"));
    }
    let elapsed = clock.monotonic() - start;
    waits.sort_unstable();
    let at = |share: f64| {
        let index = (waits.len() as f64 * share) as usize;
        waits.get(index.min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    LoopReport {
        tasks,
        elapsed,
        tasks_per_second: tasks as f64 / elapsed.as_secs_f64(),
        p50: Duration::from_micros(at(0.5).into()),
        p99: Duration::from_micros(at(0.99).into()),
        max: Duration::from_micros(at(1.0).into()),
    }
}

struct Worker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    body: Bytes,
    list: Arc<str>,
}

impl Worker {
    /// Returns how long each commit took, in microseconds.
    async fn run(self, next: Arc<AtomicU64>, tasks: u64) -> Vec<u32> {
        let mut waits = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < tasks {
            let now = self.clock.now();
            let id = self.entropy.uuid7(now);
            let key = Key::new(format!("T#default#task#{id}"), "0");
            let sort: Arc<str> = now.sortable().into();
            let list = ListEntry { partition: self.list.clone(), sort };
            let due = now.plus(Duration::from_secs(900));
            for (expect, due) in [
                (Precondition::Absent, Some(due)),
                (Precondition::Version(1), Some(due)),
                (Precondition::Version(2), None),
            ] {
                let item = self.header(key.clone(), list.clone(), due);
                let writes = vec![Write::Put { item, expect }];
                let asked = self.clock.monotonic();
                let done = self.store.commit(Commit { id: self.entropy.write_id(), writes }).await;
                done.expect("no other writer conflicts with the loop's commits");
                waits.push((self.clock.monotonic() - asked).as_micros() as u32);
            }
        }
        waits
    }

    fn header(&self, key: Key, list: ListEntry, due: Option<Timestamp>) -> NewItem {
        NewItem {
            key,
            kind: "task".into(),
            schema: 1,
            // A copy, as an encoder would make.
            body: Bytes::copy_from_slice(&self.body),
            list: Some(list),
            list2: None,
            due,
            expires: None,
        }
    }
}
