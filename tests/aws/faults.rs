//! One call in five fails on the wire, and functions sometimes end in the middle. Every accepted
//! task ends once, and its external effects are accounted for.
//!
//! `WATCHBILL_TASKS` sets the number of tasks (soak: 1,000), `WATCHBILL_SEED` the faults. The
//! seed is printed; the interleaving still depends on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use watchbill_core::ledger::{Batch, Entry, verify};
use watchbill_core::ports::Entropy as _;
use watchbill_core::repo::{self, EffectRecord, decode};
use watchbill_core::service::{Core, NewTask, ServiceError};
use watchbill_domain::{Priority, Status, Task, TaskEntry, TaskId, TenantId};
use watchbill_runtime::run::TaskAgent;
use watchbill_testkit::SeededEntropy;

use super::emulator::{Stack, number, text};
use super::lambda::{self, Part};
use super::peer::{Creator, Peer};
use super::world::{World, new_task};
use crate::support::Stopwatch;

const TASKS: u64 = 60;
const PERCENT: u64 = 20;
const CALLERS: u64 = 8;
const TENANTS: u64 = 3;
/// Pollers per lane: Lambda keeps five.
const POLLERS: u64 = 5;
/// How long nothing may change before the test fails. The longest waits are a lease's expiry and
/// a message's visibility timeout, both under half a minute.
const TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(500);

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
    // still run until all have arrived.
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
        "faults: {tasks} tasks submitted in {submitted:.1?}, all ended and recorded after \
         {ended:.1?}; {troubles} of {seen} calls failed; {} effects, {} undone",
        peer.keys(),
        audit.undone(&peer),
    );
    world.stack.remove().await;
}

/// Starts everything that runs on AWS without a caller.
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

/// Sweeps every second, where the template sweeps every minute.
async fn sweep(world: Arc<World>) {
    let sweeper = world.sweeper();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        second.tick().await;
        // The next tick finds what this one did not reach.
        let _ = sweeper.sweep(2_000).await;
    }
}

/// The ids of the accepted tasks, by tenant.
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
                // Some callers never receive the response, and repeat the request.
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

/// Most tasks have a small payload. Some have one that is stored in its own item, some one in a
/// blob.
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
        // SQS accepts these characters in no message.
        new.trace_id = Some(format!("trace-{n}\u{fffe}\u{ffff}"));
    }
    // No task may run out of retries: there is always one more fault.
    new.max_retries = Some(20);
    new
}

/// Repeats the request with the same key until it is accepted, as the API tells its callers to.
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

/// Waits until all tasks have ended, all changes are recorded and no message is left.
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
            watch.elapsed() < TIMEOUT,
            "nothing moves: {changes} changes, {recorded} recorded, {left} messages, open {open:?}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The task changes in a tenant's ledger. Audit records that came with them are skipped.
pub async fn recorded_changes(core: &Core, tenant: &TenantId) -> Vec<TaskEntry> {
    let mut changes = Vec::new();
    for seq in 1.. {
        let item = core.store().get(&repo::ledger_key(tenant, seq)).await;
        let Some(item) = item.expect("the emulator answers") else { break };
        for entry in Batch::read(&item).expect("it was verified").entries {
            match entry {
                Entry::Task(entry) => changes.push(entry),
                Entry::AuditRecord(_) => {}
                Entry::Published(event) => panic!("nobody publishes events: {event:?}"),
            }
        }
    }
    changes
}

/// Ids of the events that report a task's end, as received from the bus, by task.
type Ends = BTreeMap<String, BTreeSet<String>>;

/// Waits until the bus has delivered the end of each task.
async fn heard_ends(world: &World, accepted: &Accepted) -> Ends {
    let all: usize = accepted.values().map(BTreeSet::len).sum();
    let watch = Stopwatch::start();
    let mut ends = heard(&world.stack).await;
    while ends.len() < all && watch.elapsed() < TIMEOUT {
        tokio::time::sleep(POLL_INTERVAL).await;
        for (task, ids) in heard(&world.stack).await {
            ends.entry(task).or_default().extend(ids);
        }
    }
    ends
}

/// Everything that is known about the tasks once nothing changes any more.
struct Audit {
    accepted: Accepted,
    stack: Stack,
    core: Core,
    headers: Vec<(Task, u64)>,
    /// The recorded versions of each task, in the order of its tenant's ledger.
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
            wrong.push(format!("{all} accepted, {} stored", self.headers.len()));
        }
        for (task, version) in &self.headers {
            let id = &task.id;
            wrong.extend(self.task(task, *version).into_iter().map(|w| format!("{id}: {w}")));
            wrong.extend(self.effect(task, peer).await.map(|w| format!("{id}: {w}")));
        }
        if self.recorded.len() != all || self.ends.len() != all {
            let (recorded, ends) = (self.recorded.len(), self.ends.len());
            wrong.push(format!(
                "of {all} tasks {recorded} are recorded, and the bus delivered an end of {ends}"
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

    /// Checks that versions are recorded once and in order, with one end that is published once.
    fn task(&self, task: &Task, version: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if task.status != Status::Completed {
            wrong.push(format!("it is {}: {:?}", task.status, task.error));
        }
        let changes = self.recorded.get(&task.id).map_or(&[][..], Vec::as_slice);
        let versions: Vec<u64> = changes.iter().map(|(version, _)| *version).collect();
        let whole = versions.first() == Some(&1) && versions.is_sorted_by(|one, next| one < next);
        // A new due time makes a version without a log entry. What the header logs must be
        // recorded.
        let logged = task.log.iter().all(|entry| versions.contains(&entry.version));
        if !whole || !logged || versions.last() != Some(&version) {
            wrong.push(format!("version {version}, but recorded is {changes:?}"));
        }
        let ends = changes.iter().filter(|(_, status)| status.is_terminal()).count();
        let published = self.ends.get(task.id.as_str()).map_or(0, BTreeSet::len);
        if (ends, published) != (1, 1) {
            wrong.push(format!("it ended {ends} times, and {published} events reported an end"));
        }
        wrong
    }

    /// Checks that the peer has one thing, which the task's effect record and its result name.
    async fn effect(&self, task: &Task, peer: &Peer) -> Option<String> {
        let (there, _) = peer.count(task.id.as_str());
        let partition = repo::task_partition(&task.tenant, &task.id);
        let steps = self.core.store().collect(&partition, repo::STEPS).await;
        let steps = steps.expect("the emulator answers");
        let [step] = &steps[..] else { return Some(format!("it has {} steps", steps.len())) };
        let step = decode::<EffectRecord>(step).expect("it is a step").value;
        let outcome = step.outcome.filter(|outcome| outcome.success);
        let result = task.result.as_ref().and_then(|result| result.inline());
        let same = outcome.as_ref().map(|outcome| &outcome.result) == result;
        (there != 1 || outcome.is_none() || !same)
            .then(|| format!("{there} things there, outcome {outcome:?}, result {result:?}"))
    }

    /// Counts the tasks whose effect happened twice and was undone once.
    fn undone(&self, peer: &Peer) -> usize {
        let ids = self.accepted.values().flatten();
        ids.filter(|id| peer.count(id.as_str()).1 > 0).count()
    }
}

/// The ends of tasks as a rule on the bus delivered them to a queue, each at least once.
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
