//! Turns changes of tasks into lane messages, and does nothing else: P0 first in a batch.
//!
//! A change may come twice, late or out of order between keys; the pointer that goes out is
//! compared with the task when it is claimed, so a pointer too many does no harm.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::domain::{Status, Task, Timestamp, What};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock, LaneMessage, Lanes};
use watchbill_core::repo::{Entity as _, decode};

/// How long to wait before a batch that the lanes would not take is offered again.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Router {
    lanes: Arc<dyn Lanes>,
    clock: Arc<dyn Clock>,
}

impl Router {
    pub fn new(lanes: Arc<dyn Lanes>, clock: Arc<dyn Clock>) -> Self {
        Self { lanes, clock }
    }

    /// An error means: the whole batch again, later. What can't be read is left out and
    /// logged; its item is due one day, so it is not lost.
    pub async fn route(&self, changes: &[Change]) -> Result<(), HandlerError> {
        let now = self.clock.now();
        let mut pointers: Vec<(LaneMessage, Duration)> =
            changes.iter().filter_map(|change| pointer_of(change, now)).collect();
        if pointers.is_empty() {
            return Ok(());
        }
        pointers.sort_by_key(|(message, _)| message.priority);
        self.lanes
            .offer(pointers)
            .await
            .map_err(|error| HandlerError::retry(AGAIN, error.to_string()))
    }
}

fn pointer_of(change: &Change, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    let item = change.image.as_ref()?;
    if *item.kind != *Task::KIND {
        return None;
    }
    match decode::<Task>(item) {
        Ok(stored) => pointer(&stored.value, now),
        Err(error) => {
            tracing::error!(key = %change.key, "change of {} can't be routed: {error}", change.key);
            None
        }
    }
}

/// The pointer a task needs in the state it is in, with the delay it should have.
pub fn pointer(task: &Task, now: Timestamp) -> Option<(LaneMessage, Duration)> {
    let wanted = match task.status {
        Status::Assigned => !task.external,
        // Suspended, or its executor vanished and the sweeper offers it again.
        Status::InProgress => {
            let offered = task.log.last().is_some_and(|entry| entry.what == What::Offered);
            task.lease.is_none() || offered
        }
        _ => false,
    };
    wanted.then(|| {
        let delay = task.resume_at.map(|at| at.since(now)).unwrap_or_default();
        (message(task), delay)
    })
}

/// The lane message that points at a task as it is now.
pub fn message(task: &Task) -> LaneMessage {
    LaneMessage {
        tenant: task.tenant.clone(),
        task_id: task.id.clone(),
        assignment: task.assignment,
        agent: task.agent,
        priority: task.lane(),
        trace_id: task.trace_id.clone(),
    }
}
