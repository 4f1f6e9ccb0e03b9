//! Imports tasks from the legacy queue.
//!
//! An id is peeked, taken (out of the queue, under a lease), recorded here under the same id,
//! and settled. A process that dies in between leaves a lease that expires, and the id is taken
//! again; recording is idempotent.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Notify;
use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::legacy::{ImportError, LegacyTaskView, Queued, ReadTask, WriteBack, legacy_id};

use crate::BridgeContext;
use crate::backend::{BackendError, LegacyTaskRequest};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::mine::ImportFilter;
use crate::reject::reject_task;
use crate::report::Metrics;
use crate::run_loop::{Direction, NextStep, SyncError};

/// Ids peeked and taken at once: as many as Redis handles in one step.
const PAGE_SIZE: usize = 500;
/// Tasks recorded concurrently.
const MAX_CONCURRENT_CREATES: usize = 256;
/// How long a taken id's import may last before the id is taken again.
const LEASE: Duration = Duration::from_secs(30);
/// How often ids with expired leases are reclaimed.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(5);
/// Cache TTL for a task that is not ours: it may be reassigned.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// Maximum cached tasks of others; beyond it, the cache is cleared.
const CACHE_SIZE: usize = 100_000;
/// How long an id may be in the queue before the task it names is written.
const GRACE: Duration = Duration::from_secs(5);
/// The first and the longest poll interval of an idle queue. The channels wake the loop earlier.
const IDLE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

pub(crate) struct TaskImport {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    mine: ImportFilter,
    /// Tasks of others, and when each was checked.
    others: HashMap<String, Duration>,
    /// Ids that name nothing, and when each was first seen.
    missing: HashMap<String, Duration>,
    reclaimed_at: Option<Duration>,
    idle: Duration,
    /// Pages of the queue read at the last poll.
    pages: u32,
}

/// A task that may be taken.
struct Candidate {
    id: String,
    data: String,
    task: LegacyTaskView,
}

enum ImportCheck {
    Ours(Box<Candidate>),
    Others,
    NotYet,
    Rejected(ImportError),
}

impl TaskImport {
    pub fn new(
        context: BridgeContext,
        metrics: Arc<Metrics>,
        wake: Arc<Notify>,
        mine: ImportFilter,
    ) -> Self {
        Self {
            context,
            metrics,
            wake,
            mine,
            others: HashMap::new(),
            missing: HashMap::new(),
            reclaimed_at: None,
            idle: IDLE.0,
            pages: 0,
        }
    }

    fn taker(&self) -> String {
        format!("watchbill@{}", self.context.host)
    }

    /// The tasks of ours on the first queue page that has any.
    async fn find_ours(&mut self) -> Result<Vec<Candidate>, SyncError> {
        let now = self.context.clock.monotonic();
        self.others.retain(|_, seen| now.saturating_sub(*seen) < CACHE_TTL);
        if self.others.len() > CACHE_SIZE {
            self.others.clear();
        }
        let mut from = 0;
        self.pages = 0;
        loop {
            let page = self.context.legacy.peek(from, PAGE_SIZE).await?;
            self.pages += 1;
            let whole = page.len() == PAGE_SIZE;
            from += page.len();
            let unknown: Vec<Queued> =
                page.into_iter().filter(|queued| !self.others.contains_key(&queued.id)).collect();
            let ours = self.sort_out(unknown, now).await?;
            if !ours.is_empty() || !whole {
                return Ok(ours);
            }
        }
    }

    async fn sort_out(
        &mut self,
        unknown: Vec<Queued>,
        now: Duration,
    ) -> Result<Vec<Candidate>, SyncError> {
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = unknown.iter().map(|queued| queued.id.clone()).collect();
        let entries = self.context.legacy.read_tasks(&ids).await?;
        let mut ours = Vec::new();
        for (queued, entry) in unknown.into_iter().zip(entries) {
            match self.classify(&queued, entry, now).await? {
                ImportCheck::Ours(candidate) => ours.push((queued.score, *candidate)),
                ImportCheck::NotYet => {}
                ImportCheck::Others => {
                    self.others.insert(queued.id, now);
                }
                ImportCheck::Rejected(what) => self.reject(&queued.id, what).await?,
            }
        }
        // The legacy queue orders tasks of one priority by id.
        let arrival = |one: &Candidate| one.task.created_at.unwrap_or_default();
        ours.sort_by(|(a, one), (b, other)| {
            a.total_cmp(b).then_with(|| arrival(one).cmp(&arrival(other)))
        });
        Ok(ours.into_iter().map(|(_, candidate)| candidate).collect())
    }

    async fn classify(
        &mut self,
        queued: &Queued,
        entry: Option<ReadTask>,
        now: Duration,
    ) -> Result<ImportCheck, BackendError> {
        let Some(entry) = entry else {
            let first = *self.missing.entry(queued.id.clone()).or_insert(now);
            if now.saturating_sub(first) < GRACE {
                return Ok(ImportCheck::NotYet);
            }
            self.missing.remove(&queued.id);
            let reason = "the queue has its id, but there is no task under it".to_owned();
            return Ok(ImportCheck::Rejected(ImportError { reason, data: None }));
        };
        self.missing.remove(&queued.id);
        // One of our tasks, exported for the legacy workers.
        if entry.fed.is_some() {
            return Ok(ImportCheck::Others);
        }
        // A task that neither side can read has no owner.
        if let Some(to) = entry.to
            && !self.mine.is_taken(&to).await?
        {
            return Ok(ImportCheck::Others);
        }
        Ok(match entry.task {
            Ok((task, data)) => {
                ImportCheck::Ours(Box::new(Candidate { id: queued.id.clone(), data, task }))
            }
            Err(what) => ImportCheck::Rejected(what),
        })
    }

    async fn reject(&self, id: &str, what: ImportError) -> Result<(), SyncError> {
        reject_task(&self.context, &self.metrics, id, what).await
    }

    /// Reclaims tasks that were taken and never settled, by a bridge that died or is
    /// disconnected.
    async fn reclaim(&mut self) -> Result<Vec<Candidate>, SyncError> {
        let now = self.context.clock.monotonic();
        if self.reclaimed_at.is_some_and(|at| now.saturating_sub(at) < RECLAIM_INTERVAL) {
            return Ok(Vec::new());
        }
        let ids = self.context.legacy.reclaim(&self.taker(), LEASE, PAGE_SIZE).await?;
        if ids.len() < PAGE_SIZE {
            self.reclaimed_at = Some(now);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.metrics.add(&self.metrics.retaken, ids.len());
        let entries = self.context.legacy.read_tasks(&ids).await?;
        let mut again = Vec::new();
        for (id, entry) in ids.into_iter().zip(entries) {
            // A bridge took it, so it is ours, even if it was reassigned since.
            let nothing = || ImportError {
                reason: "its id was taken from the queue, but there is no task under it".to_owned(),
                data: None,
            };
            match entry.ok_or_else(nothing).and_then(|entry| entry.task) {
                Ok((task, data)) => again.push(Candidate { id, data, task }),
                Err(what) => self.reject(&id, what).await?,
            }
        }
        Ok(again)
    }

    /// Records taken tasks and settles the recorded ones.
    async fn record(&self, taken: Vec<Candidate>) -> Result<(), SyncError> {
        let recorded: Vec<_> = stream::iter(taken)
            .map(|one| async move {
                let recorded = self.record_one(&one).await;
                (one, recorded)
            })
            .buffered(MAX_CONCURRENT_CREATES)
            .collect()
            .await;
        let (mut settled, mut repeats, mut later) = (Vec::new(), Vec::new(), None);
        for (one, recorded) in recorded {
            match recorded {
                Ok(view) => {
                    settled.push(one.id.clone());
                    // Our task has moved on: its earlier write-back went to the previous copy in
                    // Redis.
                    repeats.extend(view.filter(has_moved).map(|view| (one.data, view)));
                }
                Err(BackendError::Retry { after, reason }) => {
                    later = Some(BackendError::Retry { after, reason });
                }
                Err(error) => {
                    let (data, reason) = (Some(one.data.into()), error.to_string());
                    self.reject(&one.id, ImportError { reason, data }).await?;
                }
            }
        }
        if !settled.is_empty() {
            self.context.legacy.ack(&settled).await?;
            self.metrics.add(&self.metrics.taken, settled.len());
        }
        if !repeats.is_empty() {
            let at = self.context.clock.now();
            let writes =
                repeats.iter().map(|(data, task)| WriteBack { task, over: Some(data), at });
            let writes: Vec<_> = writes.collect();
            self.context.legacy.write(&writes).await?;
        }
        match later {
            // They are taken again when their leases expire.
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Returns `None` for a task that ended in the legacy queue and is unknown here: it is only
    /// removed from the queue.
    async fn record_one(&self, one: &Candidate) -> Result<Option<TaskView>, BackendError> {
        let id = legacy_id(&one.id).map_err(BackendError::Refused)?;
        let ended = matches!(one.task.status, Status::Completed | Status::Cancelled);
        if ended || is_ambiguous(&one.id) {
            let names = std::slice::from_ref(&one.id);
            let known = tasks_of_peer(&*self.context.backend, names).await?.pop().flatten();
            // A task that an older build stored under the legacy id remains that task.
            if ended || known.as_ref().is_some_and(|task| task.task_id != id) {
                return Ok(known);
            }
        }
        let (task, trace_id) = (one.task.task.clone(), one.task.trace_id.clone());
        let mut tries = 0;
        loop {
            let new = LegacyTaskRequest {
                id: id.clone(),
                task: task.clone(),
                trace_id: trace_id.clone(),
            };
            match self.context.backend.create(new).await {
                Err(BackendError::Retry { after, .. }) if tries < 4 => {
                    tries += 1;
                    self.context.clock.sleep(after.min(Duration::from_secs(2))).await;
                }
                created => return created.map(Some),
            }
        }
    }

    /// Removes ids that had ended before their import from the tasks in progress.
    async fn forget_ended(&self, ended: &[String]) -> Result<(), SyncError> {
        if !ended.is_empty() {
            self.context.legacy.forget(ended).await?;
        }
        Ok(())
    }
}

/// Whether our state differs from the legacy one, which is assigned to an agent.
fn has_moved(view: &TaskView) -> bool {
    view.version > 1 || view.status == Status::Pending
}

#[async_trait]
impl Direction for TaskImport {
    fn name(&self) -> &'static str {
        "drain"
    }

    fn woken_by(&self) -> Option<Arc<Notify>> {
        Some(self.wake.clone())
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        let mut taken = self.reclaim().await?;
        let mut ours = match self.mine.takes_any() {
            true => self.find_ours().await?,
            false => Vec::new(),
        };
        if !ours.is_empty() {
            let ids: Vec<String> = ours.iter().map(|one| one.id.clone()).collect();
            let got = self.context.legacy.take(&ids, &self.taker(), LEASE).await?;
            let got: BTreeSet<String> = got.into_iter().collect();
            ours.retain(|one| got.contains(&one.id));
            taken.extend(ours);
        }
        if taken.is_empty() {
            let wait = self.idle;
            // A queue of others' tasks takes many reads per poll.
            self.idle = (self.idle * 2).min(IDLE.1 * self.pages.max(1));
            return Ok(NextStep::Wait(wait));
        }
        self.idle = IDLE.0;
        let ended =
            |one: &&Candidate| matches!(one.task.status, Status::Completed | Status::Cancelled);
        let ended: Vec<String> = taken.iter().filter(ended).map(|one| one.id.clone()).collect();
        self.record(taken).await?;
        self.forget_ended(&ended).await?;
        Ok(NextStep::On)
    }
}
