//! Turns changes of tasks into lane messages, and does nothing else: P0 first in a batch.
//!
//! A change may come twice, late or out of order between keys; the pointer that goes out is
//! compared with the task when it is claimed, so a pointer too many does no harm.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock, DUE_SHARDS, Item, Key, LaneMessage, Lanes, LanesError};
use watchbill_core::repo::{Entity as _, RoutePeek};
use watchbill_core::service::Core;
use watchbill_domain::{Status, Task, TaskId, TenantId, Timestamp};

/// How long to wait before a batch that the lanes would not take is offered again.
const AGAIN: Duration = Duration::from_secs(1);
/// Items read at once when the lanes are filled anew.
const PAGE: usize = 500;

pub struct Router {
    lanes: Arc<dyn Lanes>,
    clock: Arc<dyn Clock>,
}

impl Router {
    pub fn new(lanes: Arc<dyn Lanes>, clock: Arc<dyn Clock>) -> Self {
        Self { lanes, clock }
    }

    /// An error means: the whole batch again, later. What can't be read, and what the lanes
    /// refuse for what it holds, is left out and logged; its item is due, so it is not lost.
    pub async fn route(&self, changes: &[Change]) -> Result<(), HandlerError> {
        let now = self.clock.now();
        let mut pointers: Vec<(LaneMessage, Duration)> = Vec::new();
        for change in changes {
            // Over one that breaks off nobody waits: an open task is due, so the sweeper looks
            // at it whatever becomes of its change.
            match catch_unwind(AssertUnwindSafe(|| pointer_of(change, now))) {
                Ok(pointer) => pointers.extend(pointer),
                Err(_) => {
                    let key = &change.key;
                    tracing::error!(%key, "{key} can't be routed: looking at it broke off");
                }
            }
        }
        if pointers.is_empty() {
            return Ok(());
        }
        pointers.sort_by_key(|(message, _)| message.priority);
        offer(&*self.lanes, pointers).await
    }
}

/// A message that is refused for what it holds would be refused each time, and everyone behind it
/// would wait. Its task is due: the sweeper offers it some times more, and then ends it as
/// undeliverable, where its owner sees it and may try it again.
async fn offer(
    lanes: &dyn Lanes,
    pointers: Vec<(LaneMessage, Duration)>,
) -> Result<(), HandlerError> {
    match lanes.offer(pointers).await {
        Ok(()) => Ok(()),
        Err(LanesError::Refused { messages, reason }) => {
            for LaneMessage { tenant, task_id: task, .. } in messages {
                tracing::error!(%tenant, %task, "the lanes refuse task {task}: {reason}");
            }
            Ok(())
        }
        Err(error) => Err(HandlerError::retry(AGAIN, error.to_string())),
    }
}

fn pointer_of(change: &Change, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    // Open means due: a task that has ended needs no look into it.
    let item = change.image.as_ref().filter(|item| item.due.is_some())?;
    let task = peek(item)?;
    let offered = task.is_offered_silently(change.version);
    if task.is_silent(change.version) && !offered {
        // Nothing but its due time moved: the pointer that is out is the right one.
        return None;
    }
    let wanted = match task.status {
        Status::Assigned => !task.external,
        // Suspended, or its executor vanished and the sweeper offers it again.
        Status::InProgress => task.lease.is_none() || task.is_offered() || offered,
        _ => false,
    };
    if wanted { pointer(&task, now) } else { None }
}

/// The task, if a pointer may be wanted for it. What can't be read, also what only a newer build
/// can, is logged and left: nobody waits for it, and the sweeper of a build that can read it
/// offers it, because it is due.
fn peek(item: &Item) -> Option<RoutePeek<'_>> {
    if *item.kind != *Task::KIND {
        return None;
    }
    let error = match RoutePeek::of(item) {
        Ok(task) => return Some(task),
        Err(error) => error,
    };
    tracing::error!(key = %item.key, "{} can't be routed: {error}", item.key);
    None
}

/// The lane message that points at a task as it is now, with the delay it should have.
fn pointer(task: &RoutePeek<'_>, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    let delay = task.resume_at.map(|at| at.since(now)).unwrap_or_default();
    // What stands in the store was checked when it came in.
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

/// Offers what was open before the lanes began: with lanes in memory, after every start.
pub async fn refill(core: Core, lanes: Arc<dyn Lanes>) -> Result<usize, HandlerError> {
    let mut offered = 0;
    for shard in 0..DUE_SHARDS {
        let mut cursor = None;
        loop {
            let end = Timestamp::from_millis(i64::MAX);
            let page = core.store().due(shard, end, PAGE, cursor).await?;
            let keys: Vec<Key> = page.entries.into_iter().map(|due| due.key).collect();
            let mut pointers = Vec::new();
            for item in core.context().get_readable(&keys).await?.iter().flatten() {
                pointers.extend(open_pointer(item, &core));
            }
            offered += pointers.len();
            offer(&*lanes, pointers).await?;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(offered)
}

fn open_pointer(item: &Item, core: &Core) -> Option<(LaneMessage, Duration)> {
    let now = core.clock().now();
    let task = peek(item)?;
    let wanted = match (task.status, &task.lease) {
        (Status::Assigned, _) => !task.external,
        (Status::InProgress, None) => true,
        (Status::InProgress, Some(lease)) => !lease.is_live(now, core.context().epoch()),
        _ => false,
    };
    if wanted { pointer(&task, now) } else { None }
}
