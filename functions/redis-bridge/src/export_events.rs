//! Exports events and task states to the legacy queue's Redis.
//!
//! One reader follows the recorded events. For each page it first writes the tasks' current
//! states (over the legacy tasks, into a domain's results, into the mirror), each with its
//! version, so that a repeat changes nothing. Then it publishes the page's events and moves the
//! cursor in one step in Redis, where the next reader, in any bridge, continues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Notify;
use watchbill_domain::{ApprovalId, EventId, Status, TaskId};
use watchbill_wire::legacy::{Cost, CostOf, LegacyTask, Origin, OutgoingEvent, WriteBack};
use watchbill_wire::{EventView, TaskView};

use crate::BridgeContext;
use crate::backend::BackendError;
use crate::domains::domain_result;
use crate::export_tasks::TaskExporter;
use crate::report::Metrics;
use crate::run_loop::{Direction, NextStep, SyncError};
use crate::settings::Settings;

/// Events per page.
const PAGE_SIZE: usize = 512;
/// How long one read waits for events in a process that is woken by them.
const WAIT: Duration = Duration::from_millis(500);
/// How often a function polls: nothing wakes it, and each read costs money.
const PAUSE: Duration = Duration::from_secs(2);
/// Maximum bytes published in one step.
const BATCH_BYTES: usize = 1024 * 1024;

pub(crate) struct EventExport {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    feeder: TaskExporter,
    fed: Arc<Notify>,
    cursor: Cursor,
    /// True in a long-running process, which is woken; false in a scheduled function.
    standing: bool,
}

/// The position of the reader, as stored in Redis.
enum Cursor {
    Unknown,
    At(Option<EventId>),
}

impl EventExport {
    pub fn new(
        context: BridgeContext,
        metrics: Arc<Metrics>,
        settings: Arc<Settings>,
        feeder: TaskExporter,
        fed: Arc<Notify>,
        standing: bool,
    ) -> Self {
        Self { context, metrics, settings, feeder, fed, cursor: Cursor::Unknown, standing }
    }

    /// Whether any setting needs exports.
    pub fn is_wanted(settings: &Settings) -> bool {
        settings.drain.is_some()
            || settings.events_out
            || settings.mirror_approvals
            || settings.mirror_cost
            || !settings.domains.is_empty()
            || !settings.feed.is_empty()
    }

    fn cursor_name(&self) -> String {
        self.settings.tenant.to_string()
    }

    async fn cursor(&mut self) -> Result<Option<EventId>, SyncError> {
        if let Cursor::At(at) = &self.cursor {
            return Ok(at.clone());
        }
        let stored = self.context.legacy.cursor(&self.cursor_name()).await?;
        let at = stored.and_then(|text| EventId::parse(&text).ok());
        self.cursor = Cursor::At(at.clone());
        Ok(at)
    }

    /// Exports one page. Returns false if there was nothing to export.
    async fn page(&mut self, at: Option<EventId>) -> Result<bool, SyncError> {
        let wait = if self.standing { WAIT } else { Duration::ZERO };
        let followed = match self.context.backend.events(at.as_ref(), PAGE_SIZE, wait).await {
            Err(BackendError::NotFound(reason)) => {
                tracing::warn!(
                    reason,
                    "the cursor in Redis names an unknown event: only new events are exported"
                );
                self.context.backend.events(None, PAGE_SIZE, wait).await?
            }
            followed => followed?,
        };
        if followed.events.is_empty() && followed.reached == at {
            return Ok(false);
        }
        let tasks = self.tasks_of(&followed.events).await?;
        self.write_tasks(&followed.events, &tasks).await?;
        self.write_domains(&tasks).await?;
        if !self.settings.feed.is_empty() && self.feeder.take(&followed.events, &tasks).await? {
            self.fed.notify_one();
        }
        if self.settings.mirror_approvals {
            self.mirror_approvals(&followed.events, &tasks).await?;
        }
        if self.settings.mirror_cost {
            self.mirror_cost(&tasks).await?;
        }
        self.publish(&followed.events, &tasks, at, followed.reached).await?;
        Ok(true)
    }

    /// The current tasks that the events concern.
    async fn tasks_of(
        &self,
        events: &[EventView],
    ) -> Result<BTreeMap<TaskId, TaskView>, SyncError> {
        let mut ids: Vec<TaskId> =
            events.iter().filter_map(|event| event.task_id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let tasks = self.context.backend.tasks(&ids).await?;
        Ok(tasks.into_iter().flatten().map(|task| (task.task_id.clone(), task)).collect())
    }

    /// Writes changed tasks over the legacy tasks.
    async fn write_tasks(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<(), SyncError> {
        let changed = |task: &&TaskView| {
            let of = |event: &&EventView| event.task_id.as_ref() == Some(&task.task_id);
            // A task that is unchanged since its creation is there already.
            task.version > 1 || events.iter().filter(of).any(|event| !is_creation(event))
        };
        let ours: Vec<&TaskView> =
            tasks.values().filter(|task| self.is_drained(task)).filter(changed).collect();
        if ours.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = ours.iter().map(|task| task.peer_id().to_owned()).collect();
        let entries = self.context.legacy.read(&ids).await?;
        let at = self.context.clock.now();
        let mut writes = Vec::with_capacity(ours.len());
        for (task, entry) in ours.into_iter().zip(&entries) {
            match entry {
                LegacyTask::Found { data, .. } => {
                    writes.push(WriteBack { task, over: Some(data), at })
                }
                LegacyTask::Missing => writes.push(WriteBack { task, over: None, at }),
                LegacyTask::Unreadable { reason, .. } => {
                    let id = &task.task_id;
                    tracing::warn!(task_id = %id, reason, "a task can't be written back");
                    self.metrics.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let wrote = self.context.legacy.write(&writes).await?;
        self.metrics.count(&wrote);
        Ok(())
    }

    async fn write_domains(&self, tasks: &BTreeMap<TaskId, TaskView>) -> Result<(), SyncError> {
        for task in tasks.values() {
            let Some(Origin::Domain(domain)) = self.context.legacy.origin(task) else { continue };
            if !self.settings.domains.contains(domain) {
                continue;
            }
            let result = domain_result(&self.context, task).await?;
            let wrote = self.context.legacy.write_result(domain, &result).await?;
            self.metrics.count(&[wrote]);
        }
        Ok(())
    }

    async fn mirror_approvals(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<(), SyncError> {
        let mut ids = BTreeSet::new();
        for event in events {
            let named = match event.event_type.group() {
                "approval" => event.payload.get("approval_id").and_then(Value::as_str),
                _ => None,
            };
            ids.extend(named.and_then(|named| ApprovalId::parse(named).ok()));
            // Cancelling the task closes its approval, for which there is no event.
            if event.event_type.as_str() == "task.cancelled" {
                let task = event.task_id.as_ref().and_then(|id| tasks.get(id));
                ids.extend(task.and_then(|task| task.approval_id.clone()));
            }
        }
        for id in ids {
            mirror_approval(&self.context, &id).await?;
        }
        Ok(())
    }

    async fn mirror_cost(&self, tasks: &BTreeMap<TaskId, TaskView>) -> Result<(), SyncError> {
        for task in tasks.values() {
            let Some(cost) = cost_of(task) else { continue };
            let (sum, tenant) = (CostOf::Trace(task.trace_id.clone()), &self.settings.tenant);
            let part = format!("{tenant} {}", task.task_id);
            self.context.legacy.add_cost(&sum, &part, cost).await?;
        }
        Ok(())
    }

    /// The last step of a page: publishes its events and moves the cursor. Large pages take
    /// several steps, because Redis serves no one else during one.
    async fn publish(
        &mut self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
        at: Option<EventId>,
        reached: Option<EventId>,
    ) -> Result<(), SyncError> {
        let Some(reached) = reached else { return Ok(()) };
        self.cursor = Cursor::At(at);
        let reported = self.reported_by_workers(events, tasks).await?;
        let (mut outgoing, mut bytes) = (Vec::new(), 0);
        for event in events {
            let task = event.task_id.as_ref().and_then(|id| tasks.get(id));
            if self.is_exported(event, task) && !reported.contains(&event.event_id) {
                bytes += weight(event);
                outgoing.push(OutgoingEvent { event, task });
            }
            // Foreign ids can't be located again, so they are no position to continue from.
            if bytes > BATCH_BYTES && event.event_id.millis().is_some() {
                if !self.publish_batch(&event.event_id, &outgoing).await? {
                    return Ok(());
                }
                (outgoing, bytes) = (Vec::new(), 0);
            }
        }
        if self.publish_batch(&reached, &outgoing).await?
            && let Some(last) = events.last()
        {
            let lag = self.context.clock.now().since(last.timestamp).as_millis();
            self.metrics.lag_ms.store(lag as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Which of these events the legacy worker of an exported task publishes itself: that it
    /// started, and the end that the worker reported.
    async fn reported_by_workers(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<BTreeSet<EventId>, SyncError> {
        let mut reported = BTreeSet::new();
        if !self.settings.events_out || self.settings.feed.is_empty() {
            return Ok(reported);
        }
        let is_external = |id: &TaskId| tasks.get(id).is_some_and(|task| task.external);
        let mut reports: Vec<(&EventView, WorkerReport)> = Vec::new();
        for event in events {
            let Some(id) = event.task_id.as_ref().filter(|id| is_external(id)) else { continue };
            match WorkerReport::of(event.event_type.as_str()) {
                // Checked before the Redis hash shows it: the task may still be on its way
                // there.
                Some(WorkerReport::Begun) if self.feeder.is_theirs(id) => {
                    reported.insert(event.event_id.clone());
                }
                Some(report) => reports.push((event, report)),
                None => {}
            }
        }
        let names = reports.iter().filter_map(|(event, _)| event.task_id.as_ref());
        let names: Vec<String> = names.map(ToString::to_string).collect();
        if names.is_empty() {
            return Ok(reported);
        }
        for ((event, report), entry) in
            reports.into_iter().zip(self.context.legacy.read(&names).await?)
        {
            if report.is_in(&entry) {
                reported.insert(event.event_id.clone());
            }
        }
        Ok(reported)
    }

    /// Publishes events and moves the cursor. Returns false if another reader moved it first;
    /// the cursor must then be read again.
    async fn publish_batch(
        &mut self,
        to: &EventId,
        events: &[OutgoingEvent<'_>],
    ) -> Result<bool, SyncError> {
        let name = self.cursor_name();
        let from = match &self.cursor {
            Cursor::At(at) => at.as_ref(),
            Cursor::Unknown => None,
        };
        let Some(published) = self.context.legacy.publish(&name, from, to, events).await? else {
            self.cursor = Cursor::Unknown;
            return Ok(false);
        };
        self.metrics.add(&self.metrics.events_out, published);
        self.cursor = Cursor::At(Some(to.clone()));
        Ok(true)
    }

    /// All events if they are exported, otherwise those of tasks from the legacy queue. The
    /// program that queued such a task has published its creation.
    fn is_exported(&self, event: &EventView, task: Option<&TaskView>) -> bool {
        match task.is_some_and(|task| self.is_drained(task)) {
            true => !is_creation(event),
            false => self.settings.events_out,
        }
    }

    fn is_drained(&self, task: &TaskView) -> bool {
        self.context.legacy.origin(task) == Some(Origin::Queue)
    }
}

/// What a legacy worker reports about its task.
#[derive(Clone, Copy)]
enum WorkerReport {
    Begun,
    Ended(Status),
}

impl WorkerReport {
    fn of(event_type: &str) -> Option<Self> {
        Some(match event_type {
            "task.started" => Self::Begun,
            "task.completed" => Self::Ended(Status::Completed),
            "task.failed" => Self::Ended(Status::Failed),
            "task.cancelled" => Self::Ended(Status::Cancelled),
            _ => return None,
        })
    }

    /// Whether the task's state in Redis is its worker's report. An end that came from our side
    /// has been written over it by now.
    fn is_in(self, entry: &LegacyTask) -> bool {
        let LegacyTask::Found { status, fed: Some(_), written, .. } = entry else { return false };
        match self {
            Self::Begun => true,
            Self::Ended(end) => !written && status == end.as_str(),
        }
    }
}

/// Approximate bytes that Redis receives for an event and its copy.
fn weight(event: &EventView) -> usize {
    2 * serde_json::to_vec(event).map_or(0, |json| json.len())
}

fn is_creation(event: &EventView) -> bool {
    event.event_type.as_str() == "task.created"
}

/// Writes an approval's state for the legacy dashboards.
pub(crate) async fn mirror_approval(
    context: &BridgeContext,
    id: &ApprovalId,
) -> Result<(), SyncError> {
    let Some(approval) = context.backend.approval(id).await? else { return Ok(()) };
    let task = context.backend.tasks(std::slice::from_ref(&approval.task_id)).await?;
    let task = task.first().and_then(Option::as_ref);
    if !context.legacy.show_approval(&approval, task).await? {
        tracing::debug!(approval = %id, "an approval is not mirrored: another program uses its id");
    }
    Ok(())
}

/// What model calls for a task have cost, if there were any.
fn cost_of(task: &TaskView) -> Option<Cost> {
    let spent = task.spent?;
    Some(Cost { tokens: spent.tokens, usd: spent.usd, requests: Some(1) })
}

#[async_trait]
impl Direction for EventExport {
    fn name(&self) -> &'static str {
        "out"
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        let at = self.cursor().await?;
        match self.page(at).await {
            Ok(false) if !self.standing => Ok(NextStep::Wait(PAUSE)),
            Ok(_) => Ok(NextStep::On),
            Err(error) => {
                // How far publishing came is unknown: read the cursor again.
                self.cursor = Cursor::Unknown;
                Err(error)
            }
        }
    }
}
