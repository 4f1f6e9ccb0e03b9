//! The alert book with very many alerts, and what a run reads of it.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_alerts::{
    AlertMark, AlertParameters, AlertStatus, AlertStore as _, MAX_OPEN_ALERTS, RaiseAlert,
    Severity, StoredAlerts,
};
use watchbill_catalog::{OpsPorts, evidence, specs, tools};
use watchbill_core::decide::{AlertRules, Command, RunResult};
use watchbill_core::ports::{
    Clock as _, Commit, CommitError, DueKey, Item, Key, Page, Query, Store, StoreError,
};
use watchbill_core::repo::{self, Entity as _, decode};
use watchbill_domain::{Fields, Outcome, TaskId, TaskType, Timestamp};
use watchbill_governance::{AuditRecord, RecordKind};
use watchbill_playbook::Playbook;
use watchbill_runtime::history::TaskHistory;
use watchbill_runtime::ooda::Ooda;
use watchbill_runtime::port_error::PortError;
use watchbill_runtime::run::{Notes, Run, RunOutcome};
use watchbill_runtime::tool::Arguments as _;
use watchbill_testkit::{Machine, MemoryStore, tenant};

/// Counts the items and index rows that are read.
struct Counting {
    inner: Arc<MemoryStore>,
    items: AtomicUsize,
    rows: AtomicUsize,
}

impl Counting {
    fn over(inner: Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self { inner, items: AtomicUsize::new(0), rows: AtomicUsize::new(0) })
    }

    /// Items and rows read since the last call.
    fn taken(&self) -> (usize, usize) {
        (self.items.swap(0, Ordering::Relaxed), self.rows.swap(0, Ordering::Relaxed))
    }
}

#[async_trait]
impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.items.fetch_add(keys.len(), Ordering::Relaxed);
        self.inner.get_many(keys).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        let found = self.inner.collect(partition, prefix).await?;
        self.items.fetch_add(found.len(), Ordering::Relaxed);
        Ok(found)
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.inner.commit(commit).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        let page = self.inner.query(query).await?;
        self.rows.fetch_add(page.entries.len(), Ordering::Relaxed);
        Ok(page)
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

struct World {
    store: Arc<MemoryStore>,
    counting: Arc<Counting>,
    machine: Machine,
    book: StoredAlerts,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let counting = Counting::over(store.clone());
        let machine = Machine::at(counting.clone(), 1, true);
        let book = StoredAlerts::new(machine.core.clone());
        Self { store, counting, machine, book }
    }

    fn raise(&self, alert_type: &str, target: &str, task: u64) -> RaiseAlert {
        RaiseAlert {
            alert_type: alert_type.into(),
            target: target.into(),
            severity: Severity::High,
            message: "m".into(),
            labels: BTreeMap::new(),
            task_id: TaskId::parse(&format!("t-{task}")).unwrap(),
            at: self.machine.clock.now(),
        }
    }

    /// Opens `count` alerts, each on its own target, the oldest first. The first has a type of
    /// its own.
    async fn open(&self, count: u64) {
        for n in 0..count {
            self.machine.clock.advance(Duration::from_millis(1));
            let raise =
                self.raise(if n == 0 { "first" } else { "disk_full" }, &format!("db-{n}"), n);
            self.book.raise(&tenant(), raise).await.unwrap();
        }
    }

    fn mark(&self) -> AlertMark {
        let task_id = TaskId::parse("t-mark").unwrap();
        AlertMark { by: "kim".into(), task_id, at: self.machine.clock.now() }
    }

    async fn run(&self, task_type: TaskType, payload: Value) -> RunOutcome {
        let id = self.machine.create().await;
        let mut task = self.machine.claim(&id).await.value;
        task.task_type = task_type;
        let clock = self.machine.clock.clone();
        let run = Run {
            task,
            payload: Arc::new(payload.as_object().cloned().unwrap_or_default()),
            planned: None,
            deadline: clock.monotonic() + Duration::from_secs(300),
            notes: Notes::new(clock.clone()),
            clock,
            journal: None,
            spending: None,
        };
        let ports = OpsPorts {
            alerts: Some(Arc::new(StoredAlerts::new(self.machine.core.clone()))),
            history: Some(Arc::new(TaskHistory::new(self.machine.core.clone()))),
            ..OpsPorts::default()
        };
        self.counting.taken();
        let playbook = Arc::new(Playbook::new(specs().clone()));
        let ooda = Ooda::new(evidence(&ports), tools::registered(&ports), playbook);
        let ended = ooda.run(&run).await;
        let text: Vec<String> = run.notes.list().into_iter().map(|note| note.text).collect();
        assert!(text[0].contains("more than 100 open alerts"), "{text:?}");
        assert!(text[0].contains("more than 100 failed tasks in the past hour"), "{text:?}");
        ended
    }

    async fn fail_one(&self) {
        let id = self.machine.create().await;
        let fence = self.machine.claim(&id).await.value.fence;
        let ending = RunResult::FailedForGood { error: "broke".into() };
        let (events, notes, outcome) = (Vec::new(), Vec::new(), Outcome::default());
        let command = Command::End { fence, ending, events, notes, outcome };
        self.machine.core.tasks().command(&tenant(), &id, &command).await.unwrap();
    }

    async fn look_at_all(&self) {
        for item in self.store.items() {
            if &*item.kind == "alert" && item.due.is_some_and(|due| due <= self.machine.clock.now())
            {
                assert!(self.book.end_if_untouched(&item).await.unwrap());
            }
        }
    }

    fn records(&self) -> Vec<AuditRecord> {
        let items = self.store.items();
        let records = items.iter().filter(|item| *item.kind == *AuditRecord::KIND);
        records.map(|item| decode::<AuditRecord>(item).unwrap().value).collect()
    }
}

#[tokio::test]
async fn a_run_reads_a_bounded_part_of_what_is_open_and_of_what_has_failed() {
    let world = World::new();
    world.open(600).await;
    for _ in 0..300 {
        world.fail_one().await;
    }
    for (task_type, payload, items, rows) in [
        (TaskType::Monitor, json!({"service": "system"}), 16, 210),
        (TaskType::Alert, json!({"action": "list"}), 70, 320),
        (TaskType::Investigate, json!({"issue": "slow"}), 420, 520),
    ] {
        world.run(task_type, payload).await;
        let (read, seen) = world.counting.taken();
        assert!(read <= items, "{task_type} read {read} items");
        assert!(seen <= rows, "{task_type} read {seen} rows of indexes");
    }
}

#[tokio::test]
async fn an_open_alert_is_found_whatever_the_number_of_newer_ones() {
    let world = World::new();
    world.open(620).await;
    world.counting.taken();
    // By type and target: a read by key.
    let found = world.book.find_open(&tenant(), "disk_full", Some("db-1")).await.unwrap().unwrap();
    assert_eq!(found.target, "db-1");
    assert!(world.counting.taken().0 <= 2);
    // By type alone: page by page.
    let first = world.book.find_open(&tenant(), "first", None).await.unwrap().unwrap();
    assert_eq!(first.target, "db-0");
    assert_eq!(world.book.find_open(&tenant(), "no_such", None).await.unwrap(), None);
    for payload in [
        json!({"action": "ack", "alert_type": "disk_full", "target": "db-1"}),
        json!({"action": "ack", "alert_type": "first"}),
    ] {
        let id = world.machine.create().await;
        let clock = world.machine.clock.clone();
        let run = Run {
            task: world.machine.claim(&id).await.value,
            payload: Arc::default(),
            planned: None,
            deadline: clock.monotonic() + Duration::from_secs(300),
            notes: Notes::new(clock.clone()),
            clock,
            journal: None,
            spending: None,
        };
        let fields = Fields::payload(payload.as_object().unwrap());
        let asked = AlertParameters::parse(fields).unwrap();
        let ended = watchbill_alerts::act(&asked, &run, &world.book).await;
        let RunOutcome::Done { result, .. } = ended else { panic!("{payload}: {ended:?}") };
        assert_eq!(result["actions"][0]["action"], "acknowledged", "{payload}");
    }
}

#[tokio::test]
async fn open_alerts_are_limited_per_tenant() {
    let world = World::new();
    world.open(MAX_OPEN_ALERTS as u64).await;
    let further = world.raise("disk_full", "db-new", 9_999);
    let refused = world.book.raise(&tenant(), further.clone()).await.unwrap_err();
    let PortError::Refused { reason, .. } = &refused else { panic!("{refused}") };
    assert!(reason.contains("1000 alerts are open") && reason.contains("'db-new'"), "{reason}");
    // Raising an open alert still increments its count.
    let counted = world.raise("disk_full", "db-7", 9_998);
    assert_eq!(world.book.raise(&tenant(), counted).await.unwrap().count, 2);
    let one = world.book.find_open(&tenant(), "disk_full", Some("db-9")).await.unwrap().unwrap();
    world.book.resolve(&tenant(), &one.alert_id, world.mark()).await.unwrap();
    let key = repo::alert_key(&tenant(), &one.alert_id);
    let ended = world.store.items().into_iter().find(|item| item.key == key).unwrap();
    let keep = AlertRules::default().keep_resolved;
    assert_eq!((ended.due, ended.expires), (None, Some(world.machine.clock.now().plus(keep))));
    world.book.raise(&tenant(), further).await.unwrap();
}

#[tokio::test]
async fn an_untouched_alert_ends_with_an_audit_record_and_expires() {
    let world = World::new();
    let rules = AlertRules::default();
    let day = Duration::from_secs(86_400);
    let quiet = world.raise("disk_full", "quiet", 1);
    let quiet = world.book.raise(&tenant(), quiet).await.unwrap();
    let loud = world.book.raise(&tenant(), world.raise("disk_full", "loud", 1)).await.unwrap();
    let seen = world.book.raise(&tenant(), world.raise("disk_full", "seen", 1)).await.unwrap();
    // One is raised again each week, one is acknowledged late: both count as touched.
    for week in 2..=4 {
        world.machine.clock.advance(7 * day);
        world.book.raise(&tenant(), world.raise("disk_full", "loud", week)).await.unwrap();
    }
    world.book.acknowledge(&tenant(), &seen.alert_id, world.mark()).await.unwrap();
    world.machine.clock.advance(9 * day);
    world.look_at_all().await;
    let status = async |id: &str| world.book.find(&tenant(), id).await.unwrap().unwrap().status;
    assert_eq!(status(&quiet.alert_id).await, AlertStatus::Resolved);
    assert_eq!(status(&loud.alert_id).await, AlertStatus::Active);
    assert_eq!(status(&seen.alert_id).await, AlertStatus::Acknowledged);
    let records = world.records();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(
        (records[0].kind, records[0].subject.as_str()),
        (RecordKind::AlertEnded, &*quiet.alert_id)
    );
    assert_eq!(records[0].events[0].event_type.as_str(), "alert.resolved");
    assert_eq!(records[0].events[0].payload["target"], "quiet");
    // Each open alert is due again. The ended one expires, and its reference expires later.
    let now = world.machine.clock.now();
    let item = |id: &str| {
        let key = repo::alert_key(&tenant(), id);
        world.store.items().into_iter().find(|item| item.key == key).unwrap()
    };
    assert_eq!(item(&quiet.alert_id).expires, Some(now.plus(rules.keep_resolved)));
    assert_eq!(item(&quiet.alert_id).due, None);
    for open in [&loud, &seen] {
        assert!(item(&open.alert_id).due.is_some_and(|due| due > now), "{}", open.target);
        assert_eq!(item(&open.alert_id).expires, None);
    }
    let pointers = world.store.items().into_iter().filter(|item| &*item.kind == "open_alert");
    for pointer in pointers {
        assert!(pointer.expires.is_some_and(|at| at >= now.plus(rules.keep_resolved)));
    }
    // In the end all alerts end, and no item stays due.
    world.machine.clock.advance(31 * day);
    world.look_at_all().await;
    assert!(world.store.items().iter().all(|item| &*item.kind != "alert" || item.due.is_none()));
    assert_eq!(world.records().len(), 3);
}
