//! What one call reads and returns is limited by count and bytes, with cursors to continue.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Batch, Entry, LedgerReader, StatsFold};
use watchbill_core::offload::BlockingPool;
use watchbill_core::ports::{
    Clock as _, Commit, CommitError, DueKey, Item, Key, NewItem, Page, Precondition, Query, Store,
    StoreError, Write,
};
use watchbill_core::repo::{Overflow, Projection, STATS_FOLD, encode};
use watchbill_core::service::{
    AuditFilter, Core, EventFilter, NewTask, Ports, ServiceError, TaskFilter,
};
use watchbill_domain::{
    Agent, ChangeKind, Event, EventId, EventPriority, EventType, LogEntry, Status, TaskId,
    TenantId, Timestamp, timed_uuid,
};
use watchbill_testkit::{FakeClock, MemoryStore, SeededEntropy};

use crate::common::{World, object, plain, tenant};

pub(super) const MIB: usize = 1024 * 1024;

/// Counts what is read.
pub(super) struct Counting {
    inner: Arc<MemoryStore>,
    clock: Arc<FakeClock>,
    /// Milliseconds that each call takes.
    pub slow: AtomicU64,
    ledger_reads: AtomicUsize,
    reads: AtomicUsize,
    bytes: AtomicUsize,
}

impl Counting {
    fn takes_its_time(&self) {
        self.clock.advance(Duration::from_millis(self.slow.load(Ordering::Relaxed)));
    }

    fn count(&self, item: Option<&Item>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let Some(item) = item else { return };
        self.bytes.fetch_add(item.body.len(), Ordering::Relaxed);
        if *item.kind == *"ledger" {
            self.ledger_reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ledger batches, items and bytes read since the last call.
    pub fn taken(&self) -> (usize, usize, usize) {
        let take = |figure: &AtomicUsize| figure.swap(0, Ordering::Relaxed);
        (take(&self.ledger_reads), take(&self.reads), take(&self.bytes))
    }
}

#[async_trait]
impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.takes_its_time();
        let item = self.inner.get(key).await?;
        self.count(item.as_ref());
        Ok(item)
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.takes_its_time();
        let items = self.inner.get_many(keys).await?;
        items.iter().for_each(|item| self.count(item.as_ref()));
        Ok(items)
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        let items = self.inner.collect(partition, prefix).await?;
        items.iter().for_each(|item| self.count(Some(item)));
        Ok(items)
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.inner.commit(commit).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.takes_its_time();
        self.reads.fetch_add(1, Ordering::Relaxed);
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

/// A core whose reads are counted.
pub(super) fn counted(world: &World) -> (Core, Arc<Counting>) {
    let store = Arc::new(Counting {
        inner: world.store.clone(),
        clock: world.clock.clone(),
        slow: AtomicU64::new(0),
        ledger_reads: AtomicUsize::new(0),
        reads: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    });
    let ports = Ports {
        store: store.clone(),
        blobs: world.blobs.clone(),
        clock: world.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(7)),
        wake: world.wake.clone(),
    };
    (Core::new(ports, Arc::new(EngineConfig::default()), 1), store)
}

pub(super) async fn put(world: &World, item: watchbill_core::ports::NewItem) {
    let writes = vec![Write::Put { item, expect: Precondition::Absent }];
    let id = world.core.entropy().write_id();
    world.store.commit(Commit { id, writes }).await.unwrap();
}

pub(super) fn event(n: u64, event_type: &str, at: Timestamp, payload: Value) -> Event {
    Event {
        event_id: EventId::from(timed_uuid(at, &["test", &n.to_string()])),
        event_type: EventType::parse(event_type).unwrap(),
        priority: EventPriority::Medium,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: object(payload),
        timestamp: at,
        metadata: Default::default(),
        hops: 0,
    }
}

/// A ledger of this many batches with one event each, one second apart.
pub(super) async fn ledger(
    world: &World,
    batches: u64,
    of: impl Fn(u64, Timestamp) -> Event,
) -> Vec<Event> {
    let (mut hash, mut events) = (String::new(), Vec::new());
    for seq in 1..=batches {
        let now = world.clock.now();
        let event = of(seq, now);
        let entries = vec![Entry::Published(event.clone())];
        let (batch, item) = Batch::new(tenant(), seq, now, hash, seq - 1, entries);
        hash = batch.hash;
        put(world, item).await;
        events.push(event);
        world.clock.advance(Duration::from_secs(1));
    }
    events
}

pub(super) fn only(event_type: &str) -> EventFilter {
    EventFilter { event_type: Some(event_type.into()), task_id: None }
}

#[tokio::test]
async fn a_walk_through_an_old_ledger_ends_and_its_cursor_goes_on() {
    let world = World::new(EngineConfig::default());
    let kind = |n| if n == 3 { "deploy.started" } else { "ci.passed" };
    let events = ledger(&world, 700, |n, at| event(n, kind(n), at, json!({}))).await;
    let (core, store) = counted(&world);
    // Newest first, searching for an old event.
    let (mut cursor, mut pages) = (None, 0);
    let found = loop {
        let page = core.events().list(&tenant(), &only("deploy.started"), 5, cursor).await.unwrap();
        let (batches, ..) = store.taken();
        assert!(batches <= 256, "{batches} batches for one page");
        pages += 1;
        cursor = page.next_cursor;
        if !page.events.is_empty() || cursor.is_none() {
            break page.events;
        }
    };
    assert_eq!((found, pages), (vec![events[2].clone()], 3));
    // Oldest first, searching for an event that never comes.
    let (after, mut cursor, mut pages) = (&events[0].event_id, None, 0);
    loop {
        let from = (Some(after), cursor.take());
        let wait = Duration::ZERO;
        let page = core.events().after(&tenant(), &only("pr.merged"), from, 5, wait).await.unwrap();
        let (batches, ..) = store.taken();
        assert!(batches <= 256, "{batches} batches for one page");
        assert!(page.events.is_empty());
        pages += 1;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    // After an event that never existed, as old as the ledger.
    let unknown = EventId::from(timed_uuid(events[0].timestamp, &["nobody's"]));
    let (mut cursor, mut pages) = (None, 0);
    let answer = loop {
        let from = (Some(&unknown), cursor.take());
        let page = core.events().after(&tenant(), &only("ci."), from, 5, Duration::ZERO).await;
        let (batches, ..) = store.taken();
        assert!(batches <= 257, "{batches} batches for one page");
        pages += 1;
        match page {
            Ok(page) if page.next_cursor.is_some() && pages < 20 => cursor = page.next_cursor,
            answer => break answer,
        }
    };
    assert!(matches!(answer, Err(ServiceError::NotFound { .. })), "{answer:?}");
    // The audit log, and an agent's score changes.
    let nobody = AuditFilter { actor: Some("nobody".into()), ..AuditFilter::default() };
    let audit = core.audit().list(&tenant(), &nobody, 5, None).await.unwrap();
    let (batches, ..) = store.taken();
    assert!(batches <= 257 && audit.next_cursor.is_some(), "{batches} batches for one page");
    let score_delta = core.reputation().events(&tenant(), Agent::Ops, 5, None).await.unwrap();
    let (batches, ..) = store.taken();
    assert!(batches <= 256 && score_delta.next_cursor.is_some(), "{batches} batches for one page");
}

#[tokio::test]
async fn a_follower_that_keeps_its_place_reads_each_batch_once() {
    let world = World::new(EngineConfig::default());
    let events = ledger(&world, 40, |n, at| event(n, "ci.passed", at, json!({}))).await;
    let (core, store) = counted(&world);
    let mut place = core.events().place_after(&tenant(), Some(&events[0].event_id)).await.unwrap();
    assert!(core.events().find_place(&tenant(), &mut place).await.unwrap());
    store.taken();
    let page = watchbill_core::service::PageSize { entries: 3, bytes: MIB };
    let (mut seen, all) = (Vec::new(), EventFilter::default());
    while seen.len() < 39 {
        let wait = Duration::ZERO;
        let followed = core.events().follow(&tenant(), &all, &mut place, page, wait).await.unwrap();
        seen.extend(followed.events);
    }
    assert_eq!(seen, events[1..]);
    // The batch that a page ends in is read once more.
    let (batches, ..) = store.taken();
    assert!(batches <= 39 + 13, "{batches} reads for 39 batches");
}

fn bytes_of(events: &[Event]) -> usize {
    events.iter().map(|event| event.payload["log"].to_string().len()).sum()
}

#[tokio::test]
async fn pages_end_at_their_bytes() {
    let world = World::new(EngineConfig::default());
    let text = "x".repeat(90 * 1024);
    let large = |n, at| event(n, "ci.passed", at, json!({ "log": text }));
    let events = ledger(&world, 40, large).await;
    let mut made = BTreeSet::new();
    for _ in 0..40 {
        let payload = object(json!({ "log": text }));
        made.insert(world.create(NewTask { payload, ..plain() }).await);
        world.clock.advance(Duration::from_secs(1));
    }
    let (core, store) = counted(&world);
    let (mut cursor, mut seen) = (None, BTreeSet::new());
    loop {
        let page = core.tasks().list(&tenant(), &TaskFilter::default(), 200, cursor).await.unwrap();
        let (_, _, bytes) = store.taken();
        assert!(bytes <= 3 * MIB / 2, "{bytes} bytes read for one page");
        let given: usize =
            page.entries.iter().map(|full| full.payload["log"].to_string().len()).sum();
        assert!(given <= MIB && !page.entries.is_empty(), "{given} bytes in one page");
        for full in page.entries {
            assert!(seen.insert(full.task.id), "a task came twice");
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let page =
            core.events().list(&tenant(), &EventFilter::default(), 200, cursor).await.unwrap();
        let given = bytes_of(&page.events);
        assert!(given <= MIB && !page.events.is_empty(), "{given} bytes in one page");
        seen.extend(page.events);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, events);
    let first = &events[0].event_id;
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let (from, all) = ((Some(first), cursor), EventFilter::default());
        let page = core.events().after(&tenant(), &all, from, 200, Duration::ZERO).await.unwrap();
        let given = bytes_of(&page.events);
        assert!(given <= MIB, "{given} bytes in one page");
        seen.extend(page.events);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, events[1..]);
}

/// Stores the overflow items of a task with this many changes, each with a note of this many bytes.
async fn with_changes(world: &World, id: &TaskId, changes: u64, note: usize) {
    let stored = world.stored(id).await;
    let made = stored.value.log[0].clone();
    for last in 2..=changes {
        let at = made.at.plus(Duration::from_millis(last));
        let note = Some("n".repeat(note));
        let events = Vec::new();
        let change =
            LogEntry { version: last, at, what: ChangeKind::Held, note, events, ..made.clone() };
        let (tenant, task) = (tenant(), id.clone());
        let overflow = Overflow { tenant, task, last, entries: vec![change], expires: None };
        put(world, encode(&overflow, None)).await;
    }
    let mut task = stored.value.clone();
    let at = made.at.plus(Duration::from_millis(changes + 1));
    let (version, events) = (changes + 1, Vec::new());
    let last = LogEntry { version, at, what: ChangeKind::Blocked, events, ..made };
    task.log = vec![last];
    task.status = Status::Blocked;
    let item = encode(&task, None);
    let writes = vec![Write::Put { item, expect: Precondition::Version(stored.version) }];
    let id = world.core.entropy().write_id();
    world.store.commit(Commit { id, writes }).await.unwrap();
}

#[tokio::test]
async fn a_task_with_many_changes_is_listed_by_its_header_and_its_timeline_is_paged() {
    for (changes, note) in [(3_000, 200), (1_000, 4_000)] {
        let world = World::new(EngineConfig::default());
        let id = world.create(plain()).await;
        with_changes(&world, &id, changes, note).await;
        let (core, store) = counted(&world);
        core.tasks().list(&tenant(), &TaskFilter::default(), 10, None).await.unwrap();
        core.tasks().get(&tenant(), &id).await.unwrap();
        let (_, reads, _) = store.taken();
        assert!(reads < 20, "{reads} items read to show one task");
        let (mut cursor, mut versions, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = core.tasks().timeline_page(&tenant(), &id, cursor).await.unwrap();
            let (_, reads, _) = store.taken();
            assert!(reads <= 1_200, "{reads} items read for one page");
            let given: usize = page.entries.iter().map(|entry| entry.text.len()).sum();
            assert!(given <= MIB && page.bytes <= MIB, "{given} bytes in one page");
            assert!(page.entries.len() <= 1_000, "{} entries", page.entries.len());
            versions.extend(page.entries.iter().filter_map(|entry| entry.version));
            pages += 1;
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(versions, (2..=changes + 1).collect::<Vec<u64>>());
        assert!(pages > 2, "{pages}");
        let whole = core.tasks().timeline(&tenant(), &id).await.unwrap();
        assert_eq!(whole.len(), versions.len());
    }
}

#[tokio::test]
async fn cursors_are_valid_for_their_own_list_only() {
    let world = World::new(EngineConfig::default());
    ledger(&world, 5, |n, at| event(n, "ci.passed", at, json!({}))).await;
    for _ in 0..3 {
        world.create(plain()).await;
        world.clock.advance(Duration::from_secs(1));
    }
    let (core, other) = (&world.core, TenantId::parse("other").unwrap());
    let (all, any) = (EventFilter::default(), AuditFilter::default());
    let events = core.events().list(&tenant(), &all, 2, None).await.unwrap().next_cursor.unwrap();
    let tasks = core.tasks().list(&tenant(), &TaskFilter::default(), 1, None).await.unwrap();
    let tasks = tasks.next.unwrap();
    let refused = |answer: Result<(), ServiceError>, said: &str| match answer {
        Err(ServiceError::Invalid { field: "cursor", message }) => {
            assert!(message.contains(said), "{message}");
        }
        answer => panic!("{answer:?}"),
    };
    let of_events = Some(events.clone());
    let audit = core.audit().list(&tenant(), &any, 5, of_events.clone()).await;
    refused(audit.map(|_| ()), "is a cursor of /events");
    let listed = core.tasks().list(&tenant(), &TaskFilter::default(), 5, of_events.clone()).await;
    refused(listed.map(|_| ()), "is a cursor of /events");
    let pending = core.approvals().pending(&tenant(), 5, Some(tasks.clone())).await;
    refused(pending.map(|_| ()), "is a cursor of /tasks");
    let score_delta = core.reputation().events(&tenant(), Agent::Ops, 5, of_events.clone()).await;
    refused(score_delta.map(|_| ()), "is a cursor of /events");
    let theirs = core.events().list(&other, &all, 5, of_events).await;
    refused(theirs.map(|_| ()), "of another tenant");
    let theirs = core.tasks().list(&other, &TaskFilter::default(), 5, Some(tasks.clone())).await;
    refused(theirs.map(|_| ()), "of another tenant");
    let failed = TaskFilter { status: Some(Status::Failed), ..TaskFilter::default() };
    let filtered = core.tasks().list(&tenant(), &failed, 5, Some(tasks)).await;
    refused(filtered.map(|_| ()), "or filter");
    for bad in ["5.1", "999999.0", "", "a1", "a1-00000000-9.9"] {
        let audit = core.audit().list(&tenant(), &any, 5, Some(bad.into())).await;
        refused(audit.map(|_| ()), "leave it out");
    }
}

#[tokio::test]
async fn a_large_batch_is_unpacked_off_the_runtime_threads() {
    let world = World::new(EngineConfig::default());
    // Hashes do not compress.
    let noise: String = (0..2_000)
        .map(|n| timed_uuid(Timestamp::default(), &[&n.to_string()]).to_string())
        .collect();
    let body = |n| if n == 1 { json!({ "noise": noise }) } else { json!({}) };
    ledger(&world, 2, |n, at| event(n, "ci.passed", at, body(n))).await;
    let offload = BlockingPool::new(1);
    let ledger = LedgerReader::new(world.store.clone(), tenant()).within(offload.clone());
    let (release, held) = mpsc::channel::<()>();
    let busy = tokio::spawn(async move { offload.run(move |_| held.recv().is_ok()).await });
    tokio::task::yield_now().await;
    let mut large = pin!(ledger.batch(1));
    assert!((&mut large).now_or_never().is_none(), "it was unpacked right here");
    assert!(ledger.batch(2).await.unwrap().is_some(), "a small one needs nobody");
    release.send(()).unwrap();
    assert!(large.await.unwrap().is_some());
    assert!(busy.await.unwrap());
}

#[tokio::test]
async fn counts_are_read_once_a_second_and_health_reads_no_ledger() {
    let world = World::new(EngineConfig::default());
    ledger(&world, 80, |n, at| event(n, "ci.passed", at, json!({}))).await;
    let fold = Projection {
        tenant: tenant(),
        name: STATS_FOLD.into(),
        seq_applied: 64,
        state: serde_json::to_value(StatsFold::default()).unwrap(),
    };
    put(&world, encode(&fold, None)).await;
    let (core, store) = counted(&world);
    for _ in 0..100 {
        core.stats().queue().await.unwrap();
    }
    let (batches, reads, _) = store.taken();
    assert!(batches == 0 && reads <= 3, "{batches} batches, {reads} reads for a hundred looks");
    for _ in 0..100 {
        core.stats().of(&tenant()).await.unwrap();
    }
    assert_eq!(store.taken().0, 16, "what the fold lacks, once");
    let before = core.stats().of(&tenant()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let after = core.stats().of(&tenant()).await.unwrap();
    assert_eq!(after.read_at.since(before.read_at), Duration::from_secs(1));
    assert_eq!(after.as_of, before.as_of, "nothing was recorded since");
    let (batches, reads, _) = store.taken();
    assert!(batches == 0 && reads <= 2, "{batches} batches, {reads} reads");
}

/// One tenant's damaged counts, or counts of a newer build, do not affect the other tenants'.
#[tokio::test]
async fn counts_that_can_not_be_read_are_left_out() {
    let world = World::new(EngineConfig::default());
    ledger(&world, 3, |n, at| event(n, "ci.passed", at, json!({}))).await;
    let fold = |tenant: &str, state: Value| Projection {
        tenant: TenantId::parse(tenant).unwrap(),
        name: STATS_FOLD.into(),
        seq_applied: 1,
        state,
    };
    let good = serde_json::to_value(StatsFold::default()).unwrap();
    put(&world, encode(&fold(tenant().as_str(), json!({ "rows": 7 })), None)).await;
    put(&world, encode(&fold("a", json!("no fold")), None)).await;
    let newer = encode(&fold("b", good.clone()), None);
    put(&world, NewItem { schema: 9, ..newer }).await;
    put(&world, encode(&fold("c", good), None)).await;
    let figures = world.core.stats().queue().await.unwrap();
    assert_eq!(figures.queue.pending, 0);
    assert_eq!(world.core.context().unreadable_items(), 3, "and noted");
    // Its own are counted from its ledger.
    let stats = world.core.stats().of(&tenant()).await.unwrap();
    assert!(stats.as_of.is_some(), "{stats:?}");
}
