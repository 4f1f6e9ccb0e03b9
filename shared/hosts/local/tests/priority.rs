//! Tests that P0 does not wait behind P3, and that P3 is not starved: the bundle in this
//! process, with an agent that takes a few milliseconds.
//!
//! `WATCHBILL_BACKLOG`: how many P3 wait (soak: 100000). `WATCHBILL_P0_MS`: within how many
//! milliseconds 99 of 100 P0 must start (soak: 50). Without it only the order is checked, as
//! times vary on a busy machine.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Map;
use watchbill_core::ports::Lanes as _;
use watchbill_core::service::Governance;
use watchbill_core::service::{Core, Identity, NewTask};
use watchbill_domain::{Agent, Priority, TaskId, TaskType, TenantId};
use watchbill_governance::Policy;
use watchbill_local::bundle::{Bundle, Settings};
use watchbill_runtime::run::{Run, RunOutcome, TaskAgent};

const BACKLOG: u64 = 5_000;
/// How many P0 are sent among the others, normally and with a larger backlog.
const URGENT: usize = 100;
const URGENT_IN_MANY: usize = 400;
const SLOTS: usize = 32;
/// How long the agent takes for a task.
const WORK: Duration = Duration::from_millis(5);

/// The started tasks, in order.
type Starts = Arc<Mutex<Vec<(Priority, TaskId)>>>;

struct Clerk(Starts);

#[async_trait]
impl TaskAgent for Clerk {
    fn agent(&self) -> Agent {
        Agent::Ops
    }

    async fn run(&self, run: &Run) -> RunOutcome {
        self.0.lock().unwrap().push((run.task.priority, run.task.id.clone()));
        run.clock.sleep(WORK).await;
        RunOutcome::Done { result: Map::new(), events: Vec::new() }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}='{text}' is not a number")))
}

async fn bundle(folder: &Path, slots: usize) -> (Bundle, Starts) {
    let governance = Governance::fixed(Policy::without_gates());
    let starts = Starts::default();
    let clerk = Clerk(starts.clone());
    let settings = Settings { governance, slots, ..Settings::default() };
    let bundle = Bundle::start(folder, settings, |_| vec![Arc::new(clerk)]).await.unwrap();
    (bundle, starts)
}

async fn submit(core: Core, priority: Priority) -> TaskId {
    let new = NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Monitor,
        priority,
        source: "user".to_owned(),
        payload: Map::new(),
        metadata: Map::new(),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: None,
        created_by: "test".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Fresh,
        hops: 0,
    };
    core.tasks().create(new).await.unwrap().task.task.id
}

/// Creates tasks that wait for the next start, because no slot runs now.
async fn fill(folder: &Path, waiting: &[(Priority, u64)]) {
    let (bundle, _) = bundle(folder, 0).await;
    for (priority, count) in waiting {
        let mut submitters = tokio::task::JoinSet::new();
        for n in 0..128 {
            let (core, mine) = (bundle.core.clone(), (*count + 127 - n) / 128);
            let priority = *priority;
            submitters.spawn(async move {
                for _ in 0..mine {
                    submit(core.clone(), priority).await;
                }
            });
        }
        submitters.join_all().await;
    }
    bundle.stop(Duration::from_secs(30)).await;
}

/// Waits until this many tasks have started.
async fn started(bundle: &Bundle, starts: &Starts, count: usize) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while starts.lock().unwrap().len() < count {
            bundle.core.clock().sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("tasks are started");
}

async fn waiting(bundle: &Bundle, priority: Priority) -> u64 {
    bundle.lanes.backlog(Agent::Ops, priority).await.unwrap()
}

/// The smallest value that `percent` of all don't exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p0_does_not_wait_behind_p3() {
    let folder = tempfile::tempdir().unwrap();
    let backlog = number("WATCHBILL_BACKLOG").unwrap_or(BACKLOG);
    fill(folder.path(), &[(Priority::P3, backlog)]).await;
    let (bundle, starts) = bundle(folder.path(), SLOTS).await;
    // Wait until the lanes are refilled with the waiting tasks.
    let mut known = 0;
    while known + (2 * SLOTS as u64) < backlog {
        bundle.core.clock().sleep(Duration::from_millis(1)).await;
        known = waiting(&bundle, Priority::P3).await + starts.lock().unwrap().len() as u64;
    }

    let count = if backlog > BACKLOG { URGENT_IN_MANY } else { URGENT };
    let mut urgent = Vec::new();
    for _ in 0..count {
        let before = starts.lock().unwrap().len();
        let id = submit(bundle.core.clone(), Priority::P0).await;
        urgent.push((id, before));
    }
    let left = waiting(&bundle, Priority::P3).await;
    let all_begun = || {
        let starts = starts.lock().unwrap();
        starts.iter().filter(|(priority, _)| *priority == Priority::P0).count() == count
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !all_begun() {
            bundle.core.clock().sleep(WORK).await;
        }
    });
    waited.await.expect("every P0 is started");

    let (mut ahead, mut after) = (Vec::new(), Vec::new());
    for (id, before) in &urgent {
        let starts = starts.lock().unwrap();
        let at = starts.iter().position(|(_, started)| started == id).unwrap();
        let others = starts[*before..at].iter().filter(|(p, _)| *p == Priority::P3);
        ahead.push(others.count() as u64);
    }
    for (id, _) in &urgent {
        let task = bundle.core.tasks().get(&TenantId::default(), id).await.unwrap().task;
        let begun = task.started_at.unwrap();
        after.push(u64::try_from(begun.since(task.created_at).as_millis()).unwrap());
    }
    let p3 = starts.lock().unwrap().len() - count;
    bundle.stop(Duration::from_secs(30)).await;
    ahead.sort_unstable();
    after.sort_unstable();
    println!(
        "priority: {count} P0 among {backlog} P3 ({p3} of them started, {left} still waiting): \
         started after p50 {} ms, p99 {} ms, at most {} ms; P3 started meanwhile p50 {}, at most {}",
        percentile(&after, 50),
        percentile(&after, 99),
        percentile(&after, 100),
        percentile(&ahead, 50),
        percentile(&ahead, 100),
    );
    assert!(left > 0, "no P3 waits any more: the backlog is too small for this measurement");
    // Slots start others until its task reference is enqueued; after that it does not wait
    // behind them.
    assert!(percentile(&ahead, 50) <= 2 * SLOTS as u64, "{ahead:?}");
    assert!(percentile(&ahead, 100) <= backlog / 10, "{ahead:?}");
    if let Some(most) = number("WATCHBILL_P0_MS") {
        assert!(percentile(&after, 99) <= most, "p99 is above {most} ms: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_is_not_starved_by_p2() {
    let folder = tempfile::tempdir().unwrap();
    // More P2 than are started below, and more are submitted.
    fill(folder.path(), &[(Priority::P3, 1_000), (Priority::P2, 1_000)]).await;
    let (bundle, starts) = bundle(folder.path(), SLOTS).await;
    let mut arriving = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let core = bundle.core.clone();
        arriving.spawn(async move {
            loop {
                submit(core.clone(), Priority::P2).await;
            }
        });
    }
    // At first the lanes are still being refilled.
    let (from, count) = (100, 400);
    started(&bundle, &starts, from + count).await;
    let backlogs = (waiting(&bundle, Priority::P2).await, waiting(&bundle, Priority::P3).await);
    arriving.shutdown().await;
    let window = starts.lock().unwrap()[from..from + count].to_vec();
    bundle.stop(Duration::from_secs(30)).await;
    assert!(backlogs.0 > 0 && backlogs.1 > 0, "P2 and P3 must both be waiting: {backlogs:?}");
    let p3 = window.iter().filter(|(priority, _)| *priority == Priority::P3).count();
    println!("priority: of {count} starts with P2 and P3 waiting {p3} were P3");
    assert!(p3 * 5 >= count, "only {p3} of {count} starts were P3, less than a fifth");
}
