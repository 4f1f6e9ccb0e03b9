//! A new table's stream has four shards or more: here four routers and four recorders handle one
//! tenant's tasks, with the emulator's stream split among them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use watchbill_core::ledger::verify;
use watchbill_core::repo;
use watchbill_domain::{Priority, TaskId, TenantId};

use super::faults::{create, recorded_changes};
use super::lambda::{self, Part};
use super::proxy::Call;
use super::world::{World, new_task};
use crate::support::Stopwatch;

const SHARDS: usize = 4;
const TASKS: usize = 120;
const CALLERS: usize = 6;
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_recorders_share_a_tenants_ledger() {
    let world = Arc::new(World::make(7).await);
    let tenant = TenantId::parse("one").expect("a proper id");
    let mut functions = JoinSet::new();
    for n in 0..SHARDS {
        let (part, seed) = (Part { n, of: SHARDS }, n as u64);
        functions.spawn(lambda::follow(world.clone(), part, &["task"], World::router, seed));
        let kinds = lambda::RECORDED;
        functions.spawn(lambda::follow(world.clone(), part, kinds, World::recorder, 100 + seed));
    }
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (core, tenant) = (world.core(), tenant.clone());
        callers.spawn(async move {
            let mut made = Vec::new();
            for n in (caller..TASKS).step_by(CALLERS) {
                made.push(
                    create(&core, &new_task(&tenant, Priority::P2, format!("key-{n}"))).await,
                );
            }
            made
        });
    }
    let tasks: Vec<TaskId> = callers.join_all().await.into_iter().flatten().collect();
    let (mut watch, mut before) = (Stopwatch::start(), 0);
    loop {
        let recorded = recorded_changes(&world.truth, &tenant).await.len();
        if recorded >= TASKS && world.stack.left("ops-p2").await >= TASKS as u64 {
            break;
        }
        if recorded != before {
            (before, watch) = (recorded, Stopwatch::start());
        }
        assert!(watch.elapsed() < TIMEOUT, "{recorded} of {TASKS} recorded, and nothing moves");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    functions.shutdown().await;
    verify(world.truth.store().clone(), &tenant).await.expect("the chain holds");
    let mut versions = BTreeMap::<TaskId, Vec<u64>>::new();
    for entry in recorded_changes(&world.truth, &tenant).await {
        versions.entry(entry.task).or_default().push(entry.change.version);
    }
    assert_eq!(versions.len(), tasks.len());
    assert!(versions.values().all(|versions| versions == &[1]), "{versions:?}");
    let (appended, met) = appends(&world.proxy.take_calls(), &tenant);
    println!("shards: {appended} batches appended, {met} times another was faster");
    assert!(appended > 0 && met <= appended * (SHARDS - 1), "{met} of {appended}");
    world.stack.remove().await;
}

/// The number of batches appended to a ledger, and of appends that conflicted with another.
fn appends(calls: &[Call], tenant: &TenantId) -> (usize, usize) {
    let ledger = repo::ledger_partition(tenant);
    let at_ledger = |call: &&Call| {
        call.operation == "PutItem" && call.request["Item"]["pk"]["S"].as_str() == Some(&*ledger)
    };
    let all: Vec<&Call> = calls.iter().filter(at_ledger).collect();
    let appended = all.iter().filter(|call| call.status == 200).count();
    (appended, all.len() - appended)
}
