//! Exports tasks to the legacy workers and imports their results.
//!
//! On our side the bridge acts as the external worker: it claims a task, with every
//! authorization that this needs, and writes it to the legacy queue under its own id. It then
//! watches the task in Redis and renews its lease.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use watchbill_domain::{Agent, Status, TaskId, TaskType};
use watchbill_redact as redact;
use watchbill_wire::legacy::{ExportedTask, LegacyTask, WorkerUpdate, WriteBack};
use watchbill_wire::{EventView, PatchStatus, TaskView};

use crate::BridgeContext;
use crate::backend::BackendError;
use crate::report::Metrics;
use crate::run_loop::{Direction, NextStep, SyncError};
use crate::settings::Settings;

/// How often exported tasks are polled; less often when there are many.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
const POLL_INTERVAL_PER_TASK: Duration = Duration::from_micros(200);
/// The interval when there are none.
const IDLE: Duration = Duration::from_secs(5);
/// How often to sweep for waiting tasks without an event.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How often a lease is renewed: a third of the shortest lease that an external worker usually
/// gets.
const LEASE: Duration = Duration::from_secs(5 * 60);
/// An exported task that has not started after this long is queued again: its worker died before
/// marking it, or every worker puts it back because the agent's name is spelled differently.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Tasks read at once.
const PAGE_SIZE: usize = 512;

/// What is known of an exported task. Times are on the monotonic clock, which starts with the
/// process.
#[derive(Clone, Debug)]
struct ExportState {
    /// When this process last renewed the lease, if it has.
    held_at: Option<Duration>,
    /// How long the task had been in the queue, this time, at `known_at`.
    age: Duration,
    known_at: Duration,
}

impl ExportState {
    fn queued_for(&self, now: Duration) -> Duration {
        self.age + now.saturating_sub(self.known_at)
    }
}

/// The exported tasks, shared by the exporter and the watcher.
#[derive(Clone)]
pub(crate) struct TaskExporter {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    exports: Arc<Mutex<HashMap<TaskId, ExportState>>>,
    /// Tasks that may be claimed but not yet queued there.
    in_transit: Arc<Mutex<HashSet<TaskId>>>,
}

impl TaskExporter {
    pub fn new(context: BridgeContext, metrics: Arc<Metrics>, settings: Arc<Settings>) -> Self {
        let (exports, in_transit) = (Arc::default(), Arc::default());
        Self { context, metrics, settings, exports, in_transit }
    }

    fn exports(&self) -> MutexGuard<'_, HashMap<TaskId, ExportState>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_exported(&self, id: &TaskId) -> bool {
        self.exports().contains_key(id)
    }

    /// Whether a task is in the legacy queue, or about to be.
    pub fn is_theirs(&self, id: &TaskId) -> bool {
        self.in_transit().contains(id) || self.is_exported(id)
    }

    fn in_transit(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        self.in_transit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, task: &TaskView) -> bool {
        let from_there = self.context.legacy.origin(task).is_some();
        task.external && !from_there && self.settings.feed.wants(task.task_type, task.assigned_to)
    }

    /// Handles new events: exports waiting tasks and withdraws ended ones. Returns whether there
    /// is something new to watch.
    pub async fn take(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<bool, SyncError> {
        let mut news = false;
        let named: BTreeSet<&TaskId> = events.iter().filter_map(|e| e.task_id.as_ref()).collect();
        for task in named.into_iter().filter_map(|id| tasks.get(id)) {
            if task.status == Status::Assigned && self.is_wanted(task) {
                news |= self.export(task).await?;
            } else if task.status.is_terminal() && self.is_exported(&task.task_id) {
                self.withdraw(task).await?;
            }
        }
        Ok(news)
    }

    /// Claims a task and puts it into the legacy queue, unless it is there already.
    async fn export(&self, task: &TaskView) -> Result<bool, SyncError> {
        // Noted before the claim, because its owner must be known once the claim is published.
        // After an error the mark remains: the export may have succeeded.
        self.in_transit().insert(task.task_id.clone());
        let exports = self.claim_and_offer(task).await?;
        self.in_transit().remove(&task.task_id);
        Ok(exports)
    }

    async fn claim_and_offer(&self, task: &TaskView) -> Result<bool, SyncError> {
        match self.hold(&task.task_id).await {
            Ok(()) => {}
            // Not authorized, or claimed by another worker.
            Err(BackendError::Conflict(reason) | BackendError::Refused(reason)) => {
                let id = &task.task_id;
                tracing::info!(task_id = %id, reason, "a task is not exported");
                return Ok(false);
            }
            Err(BackendError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if self.is_exported(&task.task_id) {
            return Ok(false);
        }
        let long_name = self.settings.feed.long_names.contains(&task.assigned_to);
        for offered in self.context.legacy.offer(&[self.offer_of(task, long_name)]).await? {
            if let Err(reason) = offered {
                self.block(&task.task_id, reason).await?;
                return Ok(false);
            }
        }
        self.metrics.fed.fetch_add(1, Ordering::Relaxed);
        let now = self.context.clock.monotonic();
        let exports = ExportState { held_at: Some(now), age: Duration::ZERO, known_at: now };
        self.exports().insert(task.task_id.clone(), exports);
        Ok(true)
    }

    /// Redis holds something else under this id, which must not be overwritten: block the task
    /// for a person to check.
    async fn block(&self, id: &TaskId, reason: String) -> Result<(), SyncError> {
        tracing::warn!(task_id = %id, reason, "a task can't be exported");
        let error = Some(format!("it can't be exported to the workers in Redis: {reason}"));
        let change = PatchStatus { status: Status::Blocked, error, result: None };
        match self.context.backend.set_status(id, change).await {
            Err(error @ BackendError::Retry { .. }) => Err(error.into()),
            // The task has ended meanwhile.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn hold(&self, id: &TaskId) -> Result<(), BackendError> {
        let change = PatchStatus { status: Status::InProgress, error: None, result: None };
        self.context.backend.set_status(id, change).await
    }

    /// The task as legacy workers expect it, with secrets redacted as for every external worker.
    fn offer_of(&self, task: &TaskView, long_name: bool) -> ExportedTask {
        let agent = task.assigned_to;
        let spelled = if long_name { agent.long_name() } else { agent.as_str() };
        let mut shown = task.clone();
        shown.status = Status::Assigned;
        redact::object(&mut shown.payload);
        ExportedTask { task: shown, assigned_to: spelled.to_owned() }
    }

    /// Removes an ended task from the legacy queue. If its worker reported that end, its state
    /// there stays.
    async fn withdraw(&self, task: &TaskView) -> Result<(), SyncError> {
        let id = task.task_id.to_string();
        self.context.legacy.withdraw(std::slice::from_ref(&id)).await?;
        let entries = self.context.legacy.read(std::slice::from_ref(&id)).await?;
        if let Some(LegacyTask::Found { data, status, .. }) = entries.first()
            && status != task.status.as_str()
        {
            let write = WriteBack { task, over: Some(data), at: self.context.clock.now() };
            self.context.legacy.write(&[write]).await?;
        }
        self.context.legacy.forget(std::slice::from_ref(&id)).await?;
        self.exports().remove(&task.task_id);
        Ok(())
    }
}

/// Watches exported tasks.
pub(crate) struct TaskExport {
    feeder: TaskExporter,
    wake: Arc<Notify>,
    loaded: bool,
    swept_at: Option<Duration>,
}

impl TaskExport {
    pub fn new(feeder: TaskExporter, wake: Arc<Notify>) -> Self {
        Self { feeder, wake, loaded: false, swept_at: None }
    }

    fn context(&self) -> &BridgeContext {
        &self.feeder.context
    }

    /// Loads the tasks that an earlier bridge exported.
    async fn load(&mut self) -> Result<(), SyncError> {
        if self.loaded {
            return Ok(());
        }
        let now = self.context().clock.monotonic();
        for (id, age) in self.context().legacy.offered().await? {
            let Ok(id) = TaskId::parse(&id) else { continue };
            let age = Duration::from_secs(age);
            let exports = ExportState { held_at: None, age, known_at: now };
            self.feeder.exports().entry(id).or_insert(exports);
        }
        self.loaded = true;
        Ok(())
    }

    /// Exports tasks that wait for an external worker and had no event: created before the
    /// bridge started, or deferred by a freeze.
    async fn sweep(&mut self) -> Result<(), SyncError> {
        let now = self.context().clock.monotonic();
        if self.swept_at.is_some_and(|at| now.saturating_sub(at) < SWEEP_INTERVAL) {
            return Ok(());
        }
        for (agent, task_type) in self.fed() {
            for task in self.context().backend.assigned(agent, task_type).await? {
                if self.feeder.is_wanted(&task) {
                    self.feeder.export(&task).await?;
                }
            }
        }
        self.swept_at = Some(now);
        Ok(())
    }

    /// The lists to sweep: all tasks of exported agents, and single types of other agents.
    fn fed(&self) -> BTreeSet<(Agent, Option<TaskType>)> {
        let feed = &self.feeder.settings.feed;
        let route = |task_type, repo| self.context().backend.route(task_type, repo);
        let of_type = feed.types.iter().flat_map(|task_type| {
            [false, true].map(|repo| (route(*task_type, repo), Some(*task_type)))
        });
        let others = of_type.filter(|(agent, _)| !feed.agents.contains(agent));
        feed.agents.iter().map(|agent| (*agent, None)).chain(others).collect()
    }

    async fn watch(&self) -> Result<usize, SyncError> {
        let ids: Vec<TaskId> = self.feeder.exports().keys().cloned().collect();
        for page in ids.chunks(PAGE_SIZE) {
            let names: Vec<String> = page.iter().map(ToString::to_string).collect();
            let updates = self.context().legacy.read_words(&names).await?;
            for (id, update) in page.iter().zip(updates) {
                self.apply_update(id, update).await?;
            }
        }
        Ok(ids.len())
    }

    /// Applies a legacy worker's report to our task.
    async fn apply_update(&self, id: &TaskId, update: WorkerUpdate) -> Result<(), SyncError> {
        let (status, assigned_to, error, result) = match update {
            WorkerUpdate::Report { status, assigned_to, error, result } => {
                (status, assigned_to, error, result)
            }
            WorkerUpdate::Missing => return self.lost(id).await,
            WorkerUpdate::Unreadable { reason } => {
                let error = format!("its entry in Redis is not a task: {reason}");
                return self.end(id, Status::Blocked, Some(error), None).await;
            }
        };
        match status {
            Status::Pending | Status::Assigned => self.not_started(id, &assigned_to).await,
            Status::InProgress => self.keep(id).await,
            Status::Completed => self.end(id, Status::Completed, None, result).await,
            over @ (Status::Failed | Status::Blocked | Status::Cancelled) => {
                self.end(id, over, error, None).await
            }
        }
    }

    async fn end(
        &self,
        id: &TaskId,
        status: Status,
        error: Option<String>,
        result: Option<Map<String, Value>>,
    ) -> Result<(), SyncError> {
        match self.context().backend.set_status(id, PatchStatus { status, error, result }).await {
            Ok(()) => {}
            Err(error @ BackendError::Retry { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(task_id = %id, %status, %error, "a worker's report came too late");
            }
        }
        let name = [id.to_string()];
        self.context().legacy.withdraw(&name).await?;
        self.context().legacy.forget(&name).await?;
        self.feeder.exports().remove(id);
        Ok(())
    }

    /// Renews our lease when it is due.
    async fn keep(&self, id: &TaskId) -> Result<(), SyncError> {
        let now = self.context().clock.monotonic();
        let held_at = self.feeder.exports().get(id).and_then(|exports| exports.held_at);
        if held_at.is_some_and(|at| now.saturating_sub(at) < LEASE) {
            return Ok(());
        }
        match self.feeder.hold(id).await {
            Ok(()) => {}
            Err(error @ BackendError::Retry { .. }) => return Err(error.into()),
            // The task has ended here or has another worker; events report that too.
            Err(error) => tracing::debug!(task_id = %id, %error, "a lease can't be renewed"),
        }
        if let Some(exports) = self.feeder.exports().get_mut(id) {
            exports.held_at = Some(now);
        }
        Ok(())
    }

    /// The task has not been started. `name`: the agent's name as written in Redis.
    async fn not_started(&self, id: &TaskId, name: &str) -> Result<(), SyncError> {
        self.keep(id).await?;
        let now = self.context().clock.monotonic();
        let Some(exports) = self.feeder.exports().get(id).cloned() else { return Ok(()) };
        if exports.queued_for(now) < START_TIMEOUT {
            return Ok(());
        }
        // A task that has ended here is withdrawn by the export of its event.
        let Some(task) = self.open_task(id).await? else { return Ok(()) };
        // Workers put back tasks without their exact name, and both spellings are in use.
        let long_name = name != task.assigned_to.long_name();
        let offer = self.feeder.offer_of(&task, long_name);
        self.context().legacy.offer_again(&offer).await?;
        self.feeder.metrics.fed_again.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = self.feeder.exports().get_mut(id) {
            *known = ExportState { age: Duration::ZERO, known_at: now, ..exports };
        }
        Ok(())
    }

    /// Redis has lost the task: export it again.
    async fn lost(&self, id: &TaskId) -> Result<(), SyncError> {
        self.feeder.metrics.lost_there.fetch_add(1, Ordering::Relaxed);
        self.context().legacy.withdraw(&[id.to_string()]).await?;
        self.feeder.exports().remove(id);
        if let Some(task) = self.open_task(id).await? {
            self.feeder.export(&task).await?;
        }
        Ok(())
    }

    /// The task's current state here, if it is still to be done.
    async fn open_task(&self, id: &TaskId) -> Result<Option<TaskView>, SyncError> {
        let open = |task: &TaskView| matches!(task.status, Status::Assigned | Status::InProgress);
        let tasks = self.context().backend.tasks(std::slice::from_ref(id)).await?;
        Ok(tasks.into_iter().flatten().find(open))
    }
}

#[async_trait]
impl Direction for TaskExport {
    fn name(&self) -> &'static str {
        "feed"
    }

    fn woken_by(&self) -> Option<Arc<Notify>> {
        Some(self.wake.clone())
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        self.load().await?;
        self.sweep().await?;
        Ok(NextStep::Wait(match self.watch().await? {
            0 => IDLE,
            exports => POLL_INTERVAL
                .max(POLL_INTERVAL_PER_TASK * u32::try_from(exports).unwrap_or(u32::MAX)),
        }))
    }
}
