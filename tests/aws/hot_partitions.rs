//! The load on each partition of the table and its indexes, at rates that no emulator reaches:
//! the units of tasks that really ran are mapped to the keys of as many tasks. Prints the table
//! of docs/scale.md and writes it to `heat.md` in the target folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use watchbill_core::ports::{Entropy as _, due_shard};
use watchbill_core::repo;
use watchbill_domain::{TaskId, TenantId, Timestamp};
use watchbill_testkit::SeededEntropy;

use super::cost_model::{Load, Place};
use super::count::{Fill, Line, tenant};
use super::peer::Idle;

/// What DynamoDB allows one partition key per second.
const WRITES: f64 = 1_000.0;
const READS: f64 = 3_000.0;

const SAMPLE: usize = 200;
/// Changes of a plain task. Each is one record of the stream.
const CHANGES: u64 = 3;
/// Simulated seconds: random distribution differs from one second to the next.
const SECONDS: u64 = 10;

/// One rate to simulate.
struct Rate {
    tasks: u64,
    tenants: u64,
}

const RATES: [Rate; 2] = [Rate { tasks: 1_000, tenants: 1 }, Rate { tasks: 10_000, tenants: 500 }];

/// The kind of key of a sampled load, by which the load is mapped to another task.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// The task's own partition.
    Task,
    /// A due shard, chosen by the task's partition.
    Due,
    /// A partition of the tenant: its name, with `{}` in place of the tenant.
    Tenant(Place, String),
    /// A partition of the tenant's ledger. Each recorder batch that holds a change of the tenant
    /// writes it once, or more often where there is more than fits.
    Ledger(Place, String),
    /// A partition that all tasks share.
    Shared(Place, String),
}

impl Key {
    fn of(load: &Load, tasks: &[TaskId], tenant: &TenantId) -> Self {
        if load.place == Place::Due {
            return Key::Due;
        }
        let own = |id: &TaskId| *repo::task_partition(tenant, id) == *load.partition;
        if tasks.iter().any(own) {
            return Key::Task;
        }
        let prefix = format!("T#{tenant}#");
        match load.partition.strip_prefix(&prefix) {
            Some(rest) if rest.starts_with("led") => {
                Key::Ledger(load.place, format!("T#{{}}#{rest}"))
            }
            Some(rest) => Key::Tenant(load.place, format!("T#{{}}#{rest}")),
            None => Key::Shared(load.place, load.partition.clone()),
        }
    }
}

/// Write and read units.
#[derive(Clone, Copy, Default)]
struct Units {
    writes: f64,
    reads: f64,
}

/// Units of one task on each kind of key.
async fn sample() -> BTreeMap<Key, Units> {
    let mut line = Line::new(|_| Arc::new(Idle)).await;
    line.pass(10, Fill::BUSY).await;
    let counted = line.pass(SAMPLE, Fill::BUSY).await;
    line.remove().await;
    let mut units = BTreeMap::<Key, Units>::new();
    for load in &counted.loads {
        let key = Key::of(load, &counted.tasks, &tenant(0));
        let units = units.entry(key).or_default();
        units.writes += load.writes;
        units.reads += load.reads;
    }
    // Divided at the end, so that one write per task is exactly 1.
    for units in units.values_mut() {
        units.writes /= SAMPLE as f64;
        units.reads /= SAMPLE as f64;
    }
    units
}

/// The busiest partition of each kind of key, with the units of its busiest second.
fn simulate(sample: &BTreeMap<Key, Units>, rate: &Rate) -> BTreeMap<Key, (String, Units)> {
    let entropy = SeededEntropy::new(1);
    // The table splits where it is written to, and the stream splits with it.
    let shards = (rate.tasks * CHANGES).div_ceil(WRITES as u64);
    let mut most = BTreeMap::<Key, (String, Units)>::new();
    for second in 0..SECONDS {
        let now = Timestamp::from_millis(1_800_000_000_000 + second as i64 * 1_000);
        let mut loads = BTreeMap::<(Key, String), Units>::new();
        let mut batches = BTreeMap::<String, BTreeSet<u64>>::new();
        for n in 0..rate.tasks {
            let id: TaskId = entropy.uuid7(now).into();
            // Tenants take turns: random choice would make some of them busier in one second
            // only.
            let tenant = tenant((n % rate.tenants) as usize);
            let partition = repo::task_partition(&tenant, &id);
            for (key, units) in sample {
                let name = match key {
                    Key::Task => partition.to_string(),
                    Key::Due => format!("{:02}", due_shard(&partition)),
                    Key::Tenant(_, name) | Key::Ledger(_, name) => {
                        name.replace("{}", tenant.as_str())
                    }
                    Key::Shared(_, name) => name.clone(),
                };
                if matches!(key, Key::Ledger(..)) {
                    // The task's position in the table is as good as random.
                    let shard = entropy.next_u64() % shards;
                    batches.entry(name.clone()).or_default().insert(shard);
                }
                let load = loads.entry((key.clone(), name)).or_default();
                load.writes += units.writes;
                load.reads += units.reads;
            }
        }
        for ((key, name), mut units) in loads {
            if let Some(batches) = batches.get(&name) {
                units.writes = units.writes.max(batches.len() as f64);
            }
            let busiest = most.entry(key).or_default();
            if units.writes + units.reads > busiest.1.writes + busiest.1.reads {
                *busiest = (name, units);
            }
        }
    }
    most
}

#[tokio::test]
async fn no_partition_exceeds_dynamodbs_limit_of_one_key() {
    let sample = sample().await;
    let mut text = String::from(
        "| tasks/s | tenants | where | busiest partition | write units/s | read units/s |\n\
         |--:|--:|---|---|--:|--:|\n",
    );
    let mut over = Vec::new();
    for rate in &RATES {
        for (key, (name, units)) in simulate(&sample, rate) {
            let place = match &key {
                Key::Task => Place::Table,
                Key::Due => Place::Due,
                Key::Tenant(place, _) | Key::Ledger(place, _) | Key::Shared(place, _) => *place,
            };
            let name = if key == Key::Task { "of a task".to_owned() } else { format!("`{name}`") };
            let Units { writes, reads } = units;
            let row = format!(
                "| {} | {} | {place:?} | {name} | {writes:.0} | {reads:.0} |",
                rate.tasks, rate.tenants
            );
            let _ = writeln!(text, "{row}");
            if writes > WRITES || reads > READS {
                over.push(row);
            }
        }
    }
    println!("{text}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heat.md");
    std::fs::write(&path, &text).expect("the target folder can be written");
    assert!(over.is_empty(), "above the limit of one partition key:\n{}", over.join("\n"));
}
