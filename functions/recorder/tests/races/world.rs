//! Test environment: a store, its feed, and recorders that read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use watchbill_core::decide::VersionedAuthorization;
use watchbill_core::decide::{Command, EngineConfig, RunResult};
use watchbill_core::handler::HandlerError;
use watchbill_core::ledger::{Entry, LedgerReader, StatsFold, verify};
use watchbill_core::ports::{Change, Clock as _, Commit, Key, NewItem, Precondition, Store, Write};
use watchbill_core::repo::{Projection, REPUTATION_FOLD};
use watchbill_core::service::{Core, NewEvent, NewTask, Ports};
use watchbill_domain::{Agent, Body, Caller, EventId, Outcome, Priority, Role, TaskId, TenantId};
use watchbill_governance::ReputationProjection;
use watchbill_recorder::Recorder;
use watchbill_testkit::{
    FakeClock, FlakyStore, MemoryBlobs, MemoryBus, MemoryStore, MemoryWake, SeededEntropy, a_task,
};

pub struct World {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<FakeClock>,
    pub bus: Arc<MemoryBus>,
    pub core: Core,
    pub entropy: Arc<SeededEntropy>,
}

pub fn tenant() -> TenantId {
    TenantId::default()
}

pub fn caller() -> Caller {
    Caller { name: "kim".into(), role: Role::Admin, tenant: tenant(), made_by: None }
}

impl World {
    pub fn new(seed: u64, percent: u64) -> Self {
        Self::over(seed, |store| match percent {
            0 => store,
            _ => Arc::new(FlakyStore::new(store, seed, percent)),
        })
    }

    /// An environment whose recorders and tasks use the store through a wrapper.
    pub fn over(seed: u64, through: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let entropy = Arc::new(SeededEntropy::new(seed));
        let seen = through(store.clone());
        let ports = Ports {
            store: seen,
            blobs: Arc::new(MemoryBlobs::new()),
            clock: clock.clone(),
            entropy: entropy.clone(),
            wake: Arc::new(MemoryWake::new()),
        };
        let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
        Self { store, clock, bus: Arc::new(MemoryBus::new()), core, entropy }
    }

    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.core.clone(), self.bus.clone())
    }

    pub async fn create(&self, priority: Priority) -> TaskId {
        self.create_for(&tenant(), priority).await
    }

    pub async fn create_for(&self, tenant: &TenantId, priority: Priority) -> TaskId {
        let new = NewTask {
            tenant: tenant.clone(),
            priority,
            payload: json!({"description": "Look"}).as_object().cloned().unwrap(),
            max_retries: Some(100),
            ..a_task()
        };
        self.core.tasks().create(new).await.unwrap().task.task.id
    }

    pub async fn claim(&self, id: &TaskId) -> u64 {
        self.claim_for(&tenant(), id).await
    }

    pub async fn claim_for(&self, tenant: &TenantId, id: &TaskId) -> u64 {
        let stored = self.core.tasks().stored(tenant, id).await.unwrap().unwrap();
        let (task, authorization) = (stored.value, VersionedAuthorization::granted(stored.version));
        let wait = task.resume_at.unwrap_or_default().since(self.clock.now());
        self.clock.advance(wait);
        let (agent, owner, assignment) = (task.agent, "one".into(), task.assignment);
        let command = Command::Claim { agent, owner, assignment, authorization };
        self.core.tasks().command(tenant, id, &command).await.unwrap().value.fence
    }

    pub async fn end(&self, id: &TaskId, fence: u64, ending: RunResult) {
        self.end_for(&tenant(), id, fence, ending).await;
    }

    pub async fn end_for(&self, tenant: &TenantId, id: &TaskId, fence: u64, ending: RunResult) {
        self.end_with(tenant, id, fence, ending, false).await;
    }

    /// Ends a run that had no effects.
    pub async fn end_read_only(&self, id: &TaskId, fence: u64, ending: RunResult) {
        self.end_with(&tenant(), id, fence, ending, true).await;
    }

    async fn end_with(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        fence: u64,
        ending: RunResult,
        read_only: bool,
    ) {
        let reputation = ending.score_delta(&self.core.rules().reputation).into_iter().collect();
        let outcome = Outcome { reputation, read_only, ..Outcome::default() };
        let (events, notes) = (Vec::new(), Vec::new());
        let command = Command::End { fence, ending, events, notes, outcome };
        self.core.tasks().command(tenant, id, &command).await.unwrap();
    }

    /// Writes a task's item back unchanged, as the sweeper does to postpone it, or with another
    /// schema, as another build would.
    pub async fn rewrite(&self, id: &TaskId, schema: u16) {
        let key = watchbill_core::repo::task_key(&tenant(), id);
        let old = self.store.get(&key).await.unwrap().unwrap();
        let item = NewItem {
            key,
            kind: "task".into(),
            schema,
            body: old.body,
            list: old.list,
            list2: old.list2,
            due: old.due,
            expires: None,
        };
        let writes = vec![Write::Put { item, expect: Precondition::Version(old.version) }];
        let id = watchbill_core::ports::Entropy::write_id(&*self.entropy);
        self.store.commit(Commit { id, writes }).await.unwrap();
    }

    pub async fn publish(&self, n: u64) {
        let new = NewEvent {
            tenant: tenant(),
            event_type: "deploy.failed".into(),
            source_agent: "ci".into(),
            payload: Map::new(),
            task_id: None,
            trace_id: None,
            priority: None,
            published_by: "ci".into(),
            event_id: Some(format!("e-{n}")),
            hops: 0,
        };
        self.core.events().publish(new).await.unwrap();
    }

    /// A day's work: tasks done, failed and retried, cancelled, waiting, and published events.
    pub async fn history(&self) {
        for n in 0..6u64 {
            let id = self.create(Priority::P2).await;
            for _ in 0..n * 2 {
                let fence = self.claim(&id).await;
                let ending = RunResult::Failed { error: "no route".into(), retry: None };
                self.end(&id, fence, ending).await;
            }
            if n % 2 == 0 {
                let fence = self.claim(&id).await;
                self.end(&id, fence, RunResult::Succeeded { result: Body::default() }).await;
            }
            let gated = self.create(Priority::P1).await;
            if n % 3 == 0 {
                self.core.tasks().cancel(&caller(), &gated, None).await.unwrap();
            }
            self.publish(n).await;
            self.clock.advance(Duration::from_secs(7));
        }
    }

    pub fn changes(&self) -> Vec<Change> {
        self.store.changes(0, usize::MAX).into_iter().map(|(_, change)| change).collect()
    }

    pub async fn entries(&self) -> Vec<Entry> {
        self.entries_of(&tenant()).await
    }

    pub async fn entries_of(&self, tenant: &TenantId) -> Vec<Entry> {
        let ledger = LedgerReader::new(self.store.clone(), tenant.clone());
        let mut entries = Vec::new();
        let mut seq = 1;
        while let Some(batch) = ledger.batch(seq).await.unwrap() {
            entries.extend(batch.entries);
            seq += 1;
        }
        entries
    }

    /// Every change of every task and every published event is in the ledger once, a task's in
    /// order; the hash chain is valid; the bus had each event; the counts equal those of a
    /// rebuild.
    pub async fn assert_whole(&self) {
        verify(self.store.clone(), &tenant()).await.unwrap();
        let entries = self.entries().await;
        let mut versions: BTreeMap<TaskId, Vec<u64>> = BTreeMap::new();
        let mut published = Vec::new();
        for entry in &entries {
            match entry {
                Entry::Task(entry) => {
                    versions.entry(entry.task.clone()).or_default().push(entry.change.version);
                }
                Entry::Published(event) => published.push(event.event_id.clone()),
                Entry::AuditRecord(_) => {}
            }
        }
        let mut tasks = 0;
        for item in self.store.items().iter().filter(|item| &*item.kind == "task") {
            let task = watchbill_core::repo::decode::<watchbill_domain::Task>(item).unwrap();
            let wanted: Vec<u64> = (1..=task.version).collect();
            assert_eq!(versions.get(&task.value.id), Some(&wanted), "{}", task.value.id);
            tasks += 1;
        }
        assert_eq!(versions.len(), tasks);
        let events = self.store.items().iter().filter(|item| &*item.kind == "event").count();
        assert_eq!(published.iter().collect::<BTreeSet<_>>().len(), events);
        assert_eq!(published.len(), events, "a published event is recorded once");
        let wanted: BTreeSet<EventId> =
            entries.iter().flat_map(Entry::events).map(|event| event.event_id).collect();
        let sent: BTreeSet<EventId> =
            self.bus.events().into_iter().map(|(_, event)| event.event_id).collect();
        assert_eq!(sent, wanted, "events that went out, and those of the ledger");
        self.assert_counts().await;
        self.assert_standings(&entries).await;
    }

    /// Reputation as readers see it equals that of a rebuild; each change of a trust level is in
    /// the ledger once, right after its cause.
    pub async fn assert_standings(&self, entries: &[Entry]) {
        let rules = &self.core.rules().reputation;
        let mut fold = ReputationProjection::default();
        let mut wanted = Vec::new();
        for entry in entries {
            if let Entry::AuditRecord(_) = entry {
                continue;
            }
            wanted.push(entry.clone());
            if let Entry::Task(entry) = entry {
                let changes = fold.apply_entry(entry, rules);
                let records = changes.iter().map(|change| change.record(&tenant(), rules));
                wanted.extend(records.map(|record| Entry::AuditRecord(Box::new(record))));
            }
        }
        assert_eq!(entries, wanted, "records, and the changes that bring them");
        let rebuilt = self.core.reputation().rebuild(&tenant()).await.unwrap();
        assert_eq!(rebuilt, fold);
        self.clock.advance(Duration::from_secs(1));
        let now = self.clock.now();
        let live = self.core.reputation().standing(&tenant(), Agent::Ops).await.unwrap();
        assert_eq!(live, rebuilt.standing(Agent::Ops, now, rules));
        let key = watchbill_core::repo::fold_key(&tenant(), REPUTATION_FOLD);
        let item = self.store.get(&key).await.unwrap().expect("levels have changed");
        let kept = watchbill_core::repo::decode::<Projection>(&item).unwrap().value;
        let kept: ReputationProjection = serde_json::from_value(kept.state).unwrap();
        let level = |fold: &ReputationProjection| fold.standing(Agent::Ops, now, rules).level;
        assert_eq!(level(&kept), level(&rebuilt), "a changed level is kept at once");
    }

    pub async fn assert_counts(&self) {
        let ledger = LedgerReader::new(self.store.clone(), tenant());
        let mut rebuilt = StatsFold::default();
        let mut seq = 1;
        while let Some(batch) = ledger.batch(seq).await.unwrap() {
            rebuilt.apply(&batch);
            seq += 1;
        }
        let (kept, rebuilt) = (self.core.stats().of(&tenant()).await.unwrap(), rebuilt.stats());
        assert_eq!((&kept.queue, &kept.rows), (&rebuilt.queue, &rebuilt.rows));
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for item in self.store.items().iter().filter(|item| &*item.kind == "task") {
            let task = watchbill_core::repo::decode::<watchbill_domain::Task>(item).unwrap();
            *found.entry(task.value.status.to_string()).or_default() += 1;
        }
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for row in &kept.rows {
            *counted.entry(row.status.to_string()).or_default() += row.count;
        }
        assert_eq!(counted, found, "counts and the tasks that stand");
    }
}

/// Catches up with all tenants, as a host does.
pub async fn catch_up(recorder: &Recorder) {
    let mut after = None;
    loop {
        after = recorder.catch_up(after.as_ref()).await.unwrap();
        if after.is_none() {
            return;
        }
    }
}

/// Records in batches of `size`, and retries when the recorder asks for it.
pub async fn feed(recorder: &Recorder, changes: &[Change], size: usize) {
    for batch in changes.chunks(size) {
        for attempt in 0.. {
            match recorder.record(batch).await {
                Ok(_) => break,
                Err(error @ HandlerError::Reject { .. }) => panic!("{error}"),
                Err(error) => assert!(attempt < 200, "{error}"),
            }
        }
    }
}

/// The same changes with the keys in a random order, each key's changes in order.
pub fn mixed(changes: &[Change], seed: u64) -> Vec<Change> {
    let dice = SeededEntropy::new(seed);
    let mut by_key: BTreeMap<Key, Vec<Change>> = BTreeMap::new();
    for change in changes.iter().rev() {
        by_key.entry(change.key.clone()).or_default().push(change.clone());
    }
    let mut out = Vec::new();
    while !by_key.is_empty() {
        let at = watchbill_core::ports::Entropy::next_u64(&dice) as usize % by_key.len();
        let key = by_key.keys().nth(at).unwrap().clone();
        let left = by_key.get_mut(&key).unwrap();
        out.extend(left.pop());
        if left.is_empty() {
            by_key.remove(&key);
        }
    }
    out
}
