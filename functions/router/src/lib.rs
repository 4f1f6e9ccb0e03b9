//! Turns task changes into lane messages, P0 first within a batch.
//!
//! A change may arrive twice, late, or out of order across keys. A claim compares the task
//! reference with the task, so a superfluous one is harmless.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock, DUE_SHARDS, Item, Key, LaneMessage, Lanes, LanesError};
use watchbill_core::repo::{Entity as _, RoutePeek};
use watchbill_core::service::Core;
use watchbill_domain::{Status, Task, TaskId, TenantId, Timestamp};

/// How long to wait before a batch that the lanes did not accept is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Items read at once when the lanes are refilled.
const PAGE_SIZE: usize = 500;

pub struct Router {
    lanes: Arc<dyn Lanes>,
    clock: Arc<dyn Clock>,
}

impl Router {
    pub fn new(lanes: Arc<dyn Lanes>, clock: Arc<dyn Clock>) -> Self {
        Self { lanes, clock }
    }

    /// Routes a batch. An error means that the whole batch must be retried later. Unreadable
    /// changes and messages that the lanes refuse for their content are skipped and logged; the
    /// items stay due.
    pub async fn route(&self, changes: &[Change]) -> Result<(), HandlerError> {
        let now = self.clock.now();
        let mut references: Vec<(LaneMessage, Duration)> = Vec::new();
        for change in changes {
            // A panic on one change does not block the others: an open task is due, so the
            // sweeper checks it in any case.
            match catch_unwind(AssertUnwindSafe(|| task_reference_of(change, now))) {
                Ok(reference) => references.extend(reference),
                Err(_) => {
                    let key = &change.key;
                    tracing::error!(%key, "a change can't be routed: reading it panicked");
                }
            }
        }
        if references.is_empty() {
            return Ok(());
        }
        references.sort_by_key(|(message, _)| message.priority);
        enqueue(&*self.lanes, references).await
    }
}

/// Enqueues task references. A message refused for its content would be refused every time and
/// block those behind it, so it is dropped. Its task is due: the sweeper enqueues it a few more
/// times and then ends it as undeliverable, where its owner sees it and may retry it.
async fn enqueue(
    lanes: &dyn Lanes,
    references: Vec<(LaneMessage, Duration)>,
) -> Result<(), HandlerError> {
    match lanes.enqueue(references).await {
        Ok(()) => Ok(()),
        Err(LanesError::Refused { messages, reason }) => {
            for LaneMessage { tenant, task_id: task, .. } in messages {
                tracing::error!(%tenant, %task, reason, "the lanes refuse a task reference");
            }
            Ok(())
        }
        Err(error) => Err(HandlerError::retry(RETRY_DELAY, error.to_string())),
    }
}

fn task_reference_of(change: &Change, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    // Every open task is due, so an item without a due time has ended.
    let item = change.image.as_ref().filter(|item| item.due.is_some())?;
    let task = peek(item)?;
    let offered = task.is_offered_silently(change.version);
    if task.is_silent(change.version) && !offered {
        // Only its due time changed: the task reference in the queue is still valid.
        return None;
    }
    let wanted = match task.status {
        Status::Assigned => !task.external,
        // Suspended, or its executor vanished and the sweeper enqueues it again.
        Status::InProgress => task.lease.is_none() || task.is_offered() || offered,
        _ => false,
    };
    if wanted { task_reference(&task, now) } else { None }
}

/// Returns the task if it may need a task reference. An unreadable item (perhaps from a newer
/// build) is logged and skipped: it must not block others. It is due, so a sweeper that can read
/// it enqueues it.
fn peek(item: &Item) -> Option<RoutePeek<'_>> {
    if *item.kind != *Task::KIND {
        return None;
    }
    let error = match RoutePeek::of(item) {
        Ok(task) => return Some(task),
        Err(error) => error,
    };
    tracing::error!(key = %item.key, %error, "an item can't be routed");
    None
}

/// Builds the lane message for a task's current state, with its delay.
fn task_reference(task: &RoutePeek<'_>, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    let delay = task.resume_at.map(|at| at.since(now)).unwrap_or_default();
    // Stored ids were validated when they were accepted.
    let message = LaneMessage {
        tenant: TenantId::parse(&task.tenant).ok()?,
        task_id: TaskId::parse(&task.id).ok()?,
        assignment: task.assignment,
        agent: task.agent,
        priority: task.lane(),
        trace_id: task.trace_id.to_string(),
    };
    Some((message, delay))
}

/// Enqueues every task that was open before the lanes began; lanes in memory need it at every
/// start. Returns the number of task references.
pub async fn refill(core: Core, lanes: Arc<dyn Lanes>) -> Result<usize, HandlerError> {
    let mut offered = 0;
    for shard in 0..DUE_SHARDS {
        let mut cursor = None;
        loop {
            let end = Timestamp::from_millis(i64::MAX);
            let page = core.store().due(shard, end, PAGE_SIZE, cursor).await?;
            let keys: Vec<Key> = page.entries.into_iter().map(|due| due.key).collect();
            let mut references = Vec::new();
            for item in core.context().get_readable(&keys).await?.iter().flatten() {
                references.extend(open_task_reference(item, &core));
            }
            offered += references.len();
            enqueue(&*lanes, references).await?;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(offered)
}

fn open_task_reference(item: &Item, core: &Core) -> Option<(LaneMessage, Duration)> {
    let now = core.clock().now();
    let task = peek(item)?;
    let wanted = match (task.status, &task.lease) {
        (Status::Assigned, _) => !task.external,
        (Status::InProgress, None) => true,
        (Status::InProgress, Some(lease)) => !lease.is_live(now, core.context().epoch()),
        _ => false,
    };
    if wanted { task_reference(&task, now) } else { None }
}
