//! The limits of each walk: by count, by bytes and by time; and the limits of a page.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, Entry};
use watchbill_core::ports::{Clock as _, NewItem, Precondition, Store as _, Write};
use watchbill_core::repo::{decode, encode};
use watchbill_core::service::{AuditFilter, Core, TaskFilter};
use watchbill_domain::{
    Agent, Approval, ApprovalId, EventId, Outcome, Priority, ReputationEvent, ScoreDelta, Task,
    TaskId, TaskType, Timestamp,
};

use watchbill_testkit::a_completion;

use super::bounds::{Counting, MIB, counted, event, ledger, only, put};
use crate::common::{World, new_task, object, plain, tenant};

/// What one call read, and whether it can be continued.
#[derive(Debug)]
struct Walked {
    what: &'static str,
    batches: usize,
    goes_on: bool,
}

/// Makes every call that walks through the ledger, searching for what is not in it.
async fn walk_all(world: &World, core: &Core, store: &Counting, first: &EventId) -> Vec<Walked> {
    let mut all = Vec::new();
    let mut walked = |what, goes_on| {
        let (batches, ..) = store.taken();
        all.push(Walked { what, batches, goes_on });
    };
    store.taken();
    let none = only("pr.merged");
    let page = core.events().list(&tenant(), &none, 5, None).await.unwrap();
    walked("events", page.events.is_empty() && page.next_cursor.is_some());
    let from = (Some(first), None);
    let page = core.events().after(&tenant(), &none, from, 5, Duration::ZERO).await.unwrap();
    walked("events after", page.events.is_empty() && page.next_cursor.is_some());
    let absent = EventId::parse("nobody-s").unwrap();
    let from = (Some(&absent), None);
    let page = core.events().after(&tenant(), &none, from, 5, Duration::ZERO).await;
    walked("search", page.is_ok_and(|page| page.next_cursor.is_some()));
    let nobody = AuditFilter { actor: Some("nobody".into()), ..AuditFilter::default() };
    let page = core.audit().list(&tenant(), &nobody, 5, None).await.unwrap();
    walked("audit", page.entries.is_empty() && page.next_cursor.is_some());
    let page = core.audit().batches(&tenant(), 1, 1_000).await.unwrap();
    walked("audit batches", page.next == Some(page.batches.len() as u64 + 1));
    let page = core.reputation().events(&tenant(), Agent::Ops, 5, None).await.unwrap();
    walked("reputation", page.events.is_empty() && page.next_cursor.is_some());
    core.stats().of(&tenant()).await.unwrap();
    let (batches, ..) = store.taken();
    // The next call continues.
    world.clock.advance(Duration::from_secs(1));
    core.stats().of(&tenant()).await.unwrap();
    let goes_on = store.taken().0 > 0;
    all.push(Walked { what: "stats", batches, goes_on });
    all
}

/// `most`: the limit on batches; one more may be read to find where the walk begins.
fn assert_ended(walked: &[Walked], most: usize) {
    for walk in walked {
        assert!(walk.goes_on, "{walk:?}");
        assert!(walk.batches > 0 && walk.batches <= most + 1, "{walk:?}, {most} are the most");
    }
}

#[tokio::test]
async fn every_walk_through_a_ledger_ends_after_so_many_batches() {
    let world = World::new(EngineConfig::default());
    let events = ledger(&world, 600, |n, at| event(n, "ci.passed", at, json!({}))).await;
    let (core, store) = counted(&world);
    let walked = walk_all(&world, &core, &store, &events[0].event_id).await;
    // A search for an id without a time reads the newest 256 batches and ends there.
    let walked: Vec<Walked> = walked.into_iter().filter(|walk| walk.what != "search").collect();
    assert_ended(&walked, 256);
}

#[tokio::test]
async fn every_walk_through_a_ledger_ends_after_so_many_bytes() {
    let world = World::new(EngineConfig::default());
    let text = "x".repeat(MIB);
    let large = |n, at| event(n, "ci.passed", at, json!({ "log": text }));
    let events = ledger(&world, 40, large).await;
    let (core, store) = counted(&world);
    let walked = walk_all(&world, &core, &store, &events[0].event_id).await;
    assert_ended(&walked, 16);
}

#[tokio::test]
async fn every_walk_through_a_ledger_ends_after_a_second() {
    let world = World::new(EngineConfig::default());
    let events = ledger(&world, 40, |n, at| event(n, "ci.passed", at, json!({}))).await;
    let (core, store) = counted(&world);
    store.slow.store(100, Ordering::Relaxed);
    let walked = walk_all(&world, &core, &store, &events[0].event_id).await;
    assert_ended(&walked, 10);
}

impl World {
    /// Stores items in commits of a hundred.
    async fn put_many(&self, items: impl Iterator<Item = NewItem>) {
        let writes: Vec<Write> =
            items.map(|item| Write::Put { item, expect: Precondition::Absent }).collect();
        for writes in writes.chunks(100) {
            let id = self.core.entropy().write_id();
            let commit = watchbill_core::ports::Commit { id, writes: writes.to_vec() };
            self.store.commit(commit).await.unwrap();
        }
    }

    async fn tasks(&self, count: u64) {
        let id = self.create(plain()).await;
        let task = self.stored(&id).await.value;
        let copy = |n: u64| Task {
            id: TaskId::parse(&format!("t-{n}")).unwrap(),
            created_at: task.created_at.plus(Duration::from_millis(n)),
            ..task.clone()
        };
        self.put_many((0..count).map(|n| encode(&copy(n), None))).await;
    }

    /// Open approvals, each with this many bytes of a plan.
    async fn approvals(&self, count: u64, bytes: usize) {
        let payload = object(json!({ "project": "shop", "environment": "production" }));
        self.create(watchbill_core::service::NewTask {
            payload,
            ..new_task(TaskType::Deploy, Priority::P2)
        })
        .await;
        let items = self.store.items();
        let item = items.iter().find(|item| &*item.kind == "approval").unwrap();
        let mut approval = decode::<Approval>(item).unwrap().value;
        approval.plan.insert("text".into(), "x".repeat(bytes).into());
        let copy = |n: u64| Approval {
            id: ApprovalId::parse(&format!("approval_t-{n}")).unwrap(),
            requested_at: approval.requested_at.plus(Duration::from_millis(n + 1)),
            ..approval.clone()
        };
        self.put_many((0..count).map(|n| encode(&copy(n), None))).await;
    }
}

/// Lists of this size, filtered for tasks and approvals that they do not contain.
async fn assert_lists_end(core: &Core, store: &Counting, most: usize) {
    let others = TaskFilter { agent: Some(Agent::Dev), ..TaskFilter::default() };
    store.taken();
    let page = core.tasks().list(&tenant(), &others, 5, None).await.unwrap();
    let (_, reads, _) = store.taken();
    assert!(reads <= most, "{reads} reads for a page of tasks");
    assert!(page.entries.is_empty() && page.next.is_some());
    let rest = core.tasks().list(&tenant(), &others, 5, page.next).await.unwrap();
    assert!(rest.entries.is_empty());
    store.taken();
    let page = core.approvals().history(&tenant(), 5, None).await.unwrap();
    let (_, reads, _) = store.taken();
    assert!(reads <= most, "{reads} reads for a page of approvals");
    assert!(page.entries.is_empty() && page.next.is_some());
}

#[tokio::test]
async fn lists_end_after_so_many_items_or_bytes_or_a_second() {
    let world = World::new(EngineConfig::default());
    world.tasks(2_400).await;
    world.approvals(2_400, 10).await;
    let (core, store) = counted(&world);
    // Two thousand items, and the forty pages of keys that name them.
    assert_lists_end(&core, &store, 2_040).await;
    store.slow.store(100, Ordering::Relaxed);
    // Five chunks of fifty: each is read by two calls.
    assert_lists_end(&core, &store, 5 * 51).await;
    store.slow.store(0, Ordering::Relaxed);
    let world = World::new(EngineConfig::default());
    world.approvals(600, 64 * 1024).await;
    let (core, store) = counted(&world);
    let page = core.approvals().history(&tenant(), 5, None).await.unwrap();
    let (.., bytes) = store.taken();
    assert!(bytes <= 20 * MIB && page.next.is_some(), "{bytes} bytes");
}

fn told(n: u64, at: Timestamp, note: &str) -> Entry {
    let reputation = vec![ScoreDelta(ReputationEvent::TaskSuccess, 2)];
    let mut entry = a_completion(n, at, Outcome { reputation, ..Outcome::default() });
    entry.change.note = Some(note.to_owned());
    Entry::Task(entry)
}

#[tokio::test]
async fn pages_of_the_audit_of_scores_and_of_approvals_end_at_their_bytes() {
    let world = World::new(EngineConfig::default());
    let (note, mut hash) = ("n".repeat(60 * 1024), String::new());
    for seq in 1..=10 {
        let now = world.clock.now();
        let entries = (0..4).map(|n| told(seq * 10 + n, now, &note)).collect();
        let (batch, item) = Batch::new(tenant(), seq, now, hash, seq - 1, entries);
        hash = batch.hash;
        put(&world, item).await;
        world.clock.advance(Duration::from_secs(1));
    }
    let core = &world.core;
    let (mut cursor, mut pages, mut seen) = (None, 0, 0);
    loop {
        let page =
            core.audit().list(&tenant(), &AuditFilter::default(), 200, cursor).await.unwrap();
        let given: usize = page.entries.iter().map(|entry| entry.text.len()).sum();
        assert!(given <= MIB && page.bytes <= MIB, "{given} bytes of the audit");
        (pages, seen) = (pages + 1, seen + page.entries.len());
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((pages, seen), (3, 40));
    let (mut cursor, mut pages, mut seen) = (None, 0, 0);
    loop {
        let page = core.reputation().events(&tenant(), Agent::Ops, 200, cursor).await.unwrap();
        let given: usize = page.events.iter().flat_map(|line| &line.reason).map(String::len).sum();
        assert!(given <= MIB, "{given} bytes of what was earned");
        (pages, seen) = (pages + 1, seen + page.events.len());
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((pages, seen), (3, 40));
    let page = core.audit().batches(&tenant(), 1, 100).await.unwrap();
    assert_eq!((page.batches.len(), page.next), (5, Some(6)), "the batch that fills it is given");
    world.approvals(40, 60 * 1024).await;
    let (mut cursor, mut pages, mut seen) = (None, 0, 0);
    loop {
        let page = core.approvals().pending(&tenant(), 200, cursor).await.unwrap();
        let given: usize =
            page.entries.iter().map(|entry| json!(entry.approval.plan).to_string().len()).sum();
        assert!(given <= MIB, "{given} bytes of approvals");
        (pages, seen) = (pages + 1, seen + page.entries.len());
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((pages, seen), (3, 41));
}
