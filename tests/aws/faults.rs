//! One call of five goes wrong, on the wire; a function now and then ends in the middle.
//! Every task that was accepted ends once, and what it did outside is accounted for.
//!
//! `WATCHBILL_TASKS` sets the number of tasks (soak: 1,000), `WATCHBILL_SEED` what goes wrong.
//! The seed is printed; what meets what still depends on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use watchbill_core::ledger::{Batch, Entry, verify};
use watchbill_core::ports::Entropy as _;
use watchbill_core::repo::{self, Step, decode};
use watchbill_core::service::{Core, NewTask, ServiceError};
use watchbill_domain::{Priority, Status, Task, TaskEntry, TaskId, TenantId};
use watchbill_runtime::run::TaskAgent;
use watchbill_testkit::SeededEntropy;

use super::emulator::{Stack, number, text};
use super::lambda::{self, Part};
use super::peer::{Creator, Peer};
use super::world::{World, new_task};
use crate::rig::Stopwatch;

const TASKS: u64 = 60;
const PERCENT: u64 = 20;
const CALLERS: u64 = 8;
const TENANTS: u64 = 3;
/// Pollers of each lane: Lambda keeps five.
const POLLERS: u64 = 5;
/// So long nothing may change at all; the longest waits are a lease's end and a message's
/// coming back, both under half a minute.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_task_ends_once_with_its_effects_accounted_for() {
    let tasks = number("WATCHBILL_TASKS").unwrap_or(TASKS);
    let seed = number("WATCHBILL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    println!("faults: WATCHBILL_SEED={seed} WATCHBILL_TASKS={tasks}");
    let watch = Stopwatch::start();
    let world = Arc::new(World::make(seed).await);
    world.proxy.trouble(PERCENT);
    let peer = Arc::new(Peer::new(seed));
    let mut functions = start(&world, &peer, seed);
    let accepted = submit(&world, tasks, seed).await;
    let submitted = watch.elapsed();
    settled(&world, &accepted).await;
    // The recorder publishes an event after it has recorded it, and again if a call failed: it must
    // still run until all are heard.
    let ends = heard_ends(&world, &accepted).await;
    let ended = watch.elapsed();
    functions.shutdown().await;
    world.proxy.trouble(0);
    let (seen, troubles) = (world.proxy.seen(), world.proxy.troubles().values().sum::<u64>());
    for ((service, trouble), number) in world.proxy.troubles() {
        println!("faults: {service:?} {trouble:?} {number}");
    }
    let audit = Audit::of(&world, accepted, ends).await;
    audit.check(&peer).await;
    println!(
        "faults: {tasks} tasks submitted in {submitted:.1?}, all ended and recorded after {ended:.1?}; \
         {troubles} of {seen} calls went wrong; {} effects, {} taken back",
        peer.keys(),
        audit.undone(&peer),
    );
    world.stack.remove().await;
}

/// Everything that runs on AWS without a caller.
fn start(world: &Arc<World>, peer: &Arc<Peer>, seed: u64) -> JoinSet<()> {
    let mut functions = JoinSet::new();
    let tasks_only = &["task"][..];
    functions.spawn(lambda::follow(
        world.clone(),
        Part::WHOLE,
        tasks_only,
        World::router,
        seed ^ 1,
    ));
    functions.spawn(lambda::follow(
        world.clone(),
        Part::WHOLE,
        lambda::RECORDED,
        World::recorder,
        seed ^ 2,
    ));
    let peer = peer.clone();
    let agent: Arc<dyn Fn(Core) -> Arc<dyn TaskAgent> + Send + Sync> =
        Arc::new(move |core| Arc::new(Creator::new(core, peer.clone())));
    for (lane, most) in [("ops-p0", 1), ("ops-p1", 10), ("ops-p2", 10), ("ops-p3", 10)] {
        for poller in 0..POLLERS {
            let seed = seed ^ (poller << 8) ^ most as u64;
            functions.spawn(lambda::poll(world.clone(), lane, most, agent.clone(), seed));
        }
    }
    functions.spawn(sweep(world.clone()));
    functions
}

/// Each second, where the template says each minute.
async fn sweep(world: Arc<World>) {
    let sweeper = world.sweeper();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        second.tick().await;
        // What it did not get to it finds at the next tick.
        let _ = sweeper.sweep(2_000).await;
    }
}

/// The ids of what was accepted, by tenant.
type Accepted = BTreeMap<TenantId, BTreeSet<TaskId>>;

async fn submit(world: &Arc<World>, tasks: u64, seed: u64) -> Accepted {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (core, dice) = (world.core(), SeededEntropy::new(seed ^ (caller << 16)));
        callers.spawn(async move {
            let mut accepted = Vec::new();
            for n in (caller..tasks).step_by(CALLERS as usize) {
                let new = a_task(n, &dice);
                let id = create(&core, &new).await;
                // Some callers never saw the answer.
                if dice.next_u64() % 10 == 0 {
                    assert_eq!(create(&core, &new).await, id, "a repeat made another task");
                }
                accepted.push((new.tenant, id));
            }
            accepted
        });
    }
    let mut by_tenant = Accepted::new();
    for (tenant, id) in callers.join_all().await.into_iter().flatten() {
        assert!(by_tenant.entry(tenant).or_default().insert(id), "one task for two keys");
    }
    by_tenant
}

/// Most have a small payload; some one that stands in an item of its own, some one in a blob.
fn a_task(n: u64, dice: &SeededEntropy) -> NewTask {
    let tenant = TenantId::parse(&format!("tenant-{}", n % TENANTS)).expect("a proper id");
    let priority = Priority::ALL[(dice.next_u64() % 4) as usize];
    let mut new = new_task(&tenant, priority, format!("key-{n}"));
    let bytes = match n % 20 {
        7 => 110 * 1024,
        3 | 13 => 2 * 1024,
        _ => 0,
    };
    new.payload.insert("note".to_owned(), Value::from("x".repeat(bytes)));
    if n % 4 == 1 {
        // Which SQS takes in no message.
        new.trace_id = Some(format!("trace-{n}\u{fffe}\u{ffff}"));
    }
    // None of them is to give up: there is always one more fault.
    new.max_retries = Some(20);
    new
}

/// Asks again with the same key until it is accepted, as the API's callers are told to.
pub async fn create(core: &Core, new: &NewTask) -> TaskId {
    loop {
        match core.tasks().create(new.clone()).await {
            Ok(created) => return created.task.task.id,
            Err(ServiceError::Busy { .. } | ServiceError::Down { .. }) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("refused: {error}"),
        }
    }
}

async fn headers(core: &Core, accepted: &Accepted) -> Vec<(Task, u64)> {
    let keys: Vec<_> = accepted
        .iter()
        .flat_map(|(tenant, ids)| ids.iter().map(|id| repo::task_key(tenant, id)))
        .collect();
    let items = core.store().get_many(&keys).await.expect("the emulator answers");
    let stored = items.iter().flatten().map(|item| decode::<Task>(item).expect("it is a task"));
    stored.map(|stored| (stored.value, stored.version)).collect()
}

/// Waits until all have ended, all is recorded, and no message is left.
async fn settled(world: &World, accepted: &Accepted) {
    let mut before = Vec::new();
    let mut watch = Stopwatch::start();
    loop {
        let headers = headers(&world.truth, accepted).await;
        let changes: u64 = headers.iter().map(|(_, version)| version).sum();
        let mut recorded = 0;
        for tenant in accepted.keys() {
            let ledger = verify(world.truth.store().clone(), tenant).await;
            ledger.expect("the chain holds at any time");
            recorded += recorded_changes(&world.truth, tenant).await.len() as u64;
        }
        let mut left = 0;
        for lane in ["ops-p0", "ops-p1", "ops-p2", "ops-p3"] {
            left += world.stack.left(lane).await;
        }
        let open = headers.iter().filter(|(task, _)| !task.status.is_terminal());
        let open: Vec<_> = open.map(|(task, version)| (&task.id, task.status, *version)).collect();
        if open.is_empty() && recorded >= changes && left == 0 {
            return;
        }
        let now = vec![changes, recorded, left];
        if now != before {
            (before, watch) = (now, Stopwatch::start());
        }
        assert!(
            watch.elapsed() < PATIENCE,
            "nothing moves: {changes} changes, {recorded} recorded, {left} messages, open {open:?}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The changes of tasks in a tenant's ledger. What else stands there is what they brought.
pub async fn recorded_changes(core: &Core, tenant: &TenantId) -> Vec<TaskEntry> {
    let mut changes = Vec::new();
    for seq in 1.. {
        let item = core.store().get(&repo::ledger_key(tenant, seq)).await;
        let Some(item) = item.expect("the emulator answers") else { break };
        for entry in Batch::read(&item).expect("it was verified").entries {
            match entry {
                Entry::Task(entry) => changes.push(entry),
                Entry::Record(_) => {}
                Entry::Published(event) => panic!("nobody publishes events: {event:?}"),
            }
        }
    }
    changes
}

/// Ids of the events that report a task's end, as received from the bus, by task.
type Ends = BTreeMap<String, BTreeSet<String>>;

/// Waits until the end of each task was heard.
async fn heard_ends(world: &World, accepted: &Accepted) -> Ends {
    let all: usize = accepted.values().map(BTreeSet::len).sum();
    let watch = Stopwatch::start();
    let mut ends = heard(&world.stack).await;
    while ends.len() < all && watch.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK).await;
        for (task, ids) in heard(&world.stack).await {
            ends.entry(task).or_default().extend(ids);
        }
    }
    ends
}

/// All that is known of the tasks when everything stands still.
struct Audit {
    accepted: Accepted,
    stack: Stack,
    core: Core,
    headers: Vec<(Task, u64)>,
    /// For each task, the versions in its tenant's ledger, in that order.
    recorded: BTreeMap<TaskId, Vec<(u64, Status)>>,
    ends: Ends,
}

impl Audit {
    async fn of(world: &World, accepted: Accepted, ends: Ends) -> Self {
        let core = world.truth.clone();
        let headers = headers(&core, &accepted).await;
        let mut recorded = BTreeMap::<_, Vec<_>>::new();
        for tenant in accepted.keys() {
            for entry in recorded_changes(&core, tenant).await {
                let change = (entry.change.version, entry.change.status);
                recorded.entry(entry.task).or_default().push(change);
            }
        }
        Self { accepted, stack: world.stack.clone(), core, headers, recorded, ends }
    }

    async fn check(&self, peer: &Peer) {
        let all: usize = self.accepted.values().map(BTreeSet::len).sum();
        let mut wrong = Vec::new();
        if self.headers.len() != all {
            wrong.push(format!("{all} accepted, {} there", self.headers.len()));
        }
        for (task, version) in &self.headers {
            let id = &task.id;
            wrong.extend(self.task(task, *version).into_iter().map(|w| format!("{id}: {w}")));
            wrong.extend(self.effect(task, peer).await.map(|w| format!("{id}: {w}")));
        }
        if self.recorded.len() != all || self.ends.len() != all {
            let (recorded, ends) = (self.recorded.len(), self.ends.len());
            wrong.push(format!(
                "of {all} tasks {recorded} are recorded, of {ends} an end was heard"
            ));
        }
        for queue in ["ops-p0", "ops-p1", "ops-p2", "ops-p3", "ops-dead"] {
            match self.stack.left(queue).await {
                0 => {}
                left => wrong.push(format!("{left} messages in {queue}")),
            }
        }
        assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Versions recorded once and in order, one end, told once.
    fn task(&self, task: &Task, version: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if task.status != Status::Completed {
            wrong.push(format!("it is {}: {:?}", task.status, task.error));
        }
        let changes = self.recorded.get(&task.id).map_or(&[][..], Vec::as_slice);
        let versions: Vec<u64> = changes.iter().map(|(version, _)| *version).collect();
        let whole = versions.first() == Some(&1) && versions.is_sorted_by(|one, next| one < next);
        // A new due time makes a version that nothing tells of; what the header tells is recorded.
        let told = task.log.iter().all(|entry| versions.contains(&entry.version));
        if !whole || !told || versions.last() != Some(&version) {
            wrong.push(format!("version {version}, but recorded is {changes:?}"));
        }
        let ends = changes.iter().filter(|(_, status)| status.is_terminal()).count();
        let told = self.ends.get(task.id.as_str()).map_or(0, BTreeSet::len);
        if (ends, told) != (1, 1) {
            wrong.push(format!("it ended {ends} times, and {told} events told of it"));
        }
        wrong
    }

    /// One thing at the peer, which the task's step and its result name.
    async fn effect(&self, task: &Task, peer: &Peer) -> Option<String> {
        let (there, _) = peer.count(task.id.as_str());
        let partition = repo::task_partition(&task.tenant, &task.id);
        let steps = self.core.store().collect(&partition, repo::STEPS).await;
        let steps = steps.expect("the emulator answers");
        let [step] = &steps[..] else { return Some(format!("it has {} steps", steps.len())) };
        let step = decode::<Step>(step).expect("it is a step").value;
        let outcome = step.outcome.filter(|outcome| outcome.success);
        let result = task.result.as_ref().and_then(|result| result.inline());
        let same = outcome.as_ref().map(|outcome| &outcome.result) == result;
        (there != 1 || outcome.is_none() || !same)
            .then(|| format!("{there} things there, outcome {outcome:?}, result {result:?}"))
    }

    /// Effects that happened twice, and of which one was taken back.
    fn undone(&self, peer: &Peer) -> usize {
        let ids = self.accepted.values().flatten();
        ids.filter(|id| peer.count(id.as_str()).1 > 0).count()
    }
}

/// The ends of tasks as a rule on the bus gave them to a queue: each at least once.
async fn heard(stack: &Stack) -> BTreeMap<String, BTreeSet<String>> {
    let mut ends = BTreeMap::<String, BTreeSet<String>>::new();
    loop {
        let messages = stack.receive("heard", 10).await;
        if messages.is_empty() {
            return ends;
        }
        for message in &messages {
            let event: Value = serde_json::from_str(text(&message["Body"])).expect("it is JSON");
            let kind = text(&event["detail-type"]);
            if ["task.completed", "task.failed", "task.cancelled"].contains(&kind) {
                let detail = &event["detail"];
                assert_ne!(detail["task_id"], json!(null), "{event}");
                let ends = ends.entry(text(&detail["task_id"]).to_owned()).or_default();
                ends.insert(text(&detail["event_id"]).to_owned());
            }
        }
        let receipts: Vec<String> =
            messages.iter().map(|m| text(&m["ReceiptHandle"]).to_owned()).collect();
        stack.delete("heard", &receipts).await;
    }
}
