//! Slots take messages from the lanes and pass them to the executor of the agent.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_domain::Agent;
use watchbill_runtime::executor::Executor;

use crate::lanes::{Delivery, LocalLanes, Slot};
use futures_util::FutureExt as _;

use crate::tasks::Tasks;

/// A message whose handling panicked comes back after this.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(5);

type Executors = Arc<HashMap<Agent, Executor>>;

/// Starts `slots` slots, and one that takes only P0.
pub fn start(tasks: &mut Tasks, lanes: &Arc<LocalLanes>, executors: &Executors, slots: usize) {
    for number in 0..=slots {
        let kind = if number == 0 { Slot::OnlyP0 } else { Slot::Any };
        let (lanes, executors) = (lanes.clone(), executors.clone());
        tasks.spawn("a slot", async move {
            while let Some(delivery) = lanes.take(kind).await {
                handle(&executors, delivery).await;
            }
        });
    }
}

/// The only place where a handler's result decides the fate of its message.
async fn handle(executors: &Executors, delivery: Delivery) {
    let message = delivery.message.clone();
    let Some(executor) = executors.get(&message.agent) else {
        // The sweeper gives up enqueuing it eventually, and reports that in the task.
        tracing::warn!(task = %message.task_id, "no {} agent runs here", message.agent);
        return delivery.done();
    };
    match AssertUnwindSafe(executor.handle(&message)).catch_unwind().await {
        Ok(Ok(())) => delivery.done(),
        Ok(Err(HandlerError::Retry { after, reason })) => {
            tracing::debug!(task = %message.task_id, "message requeued in {after:?}: {reason}");
            delivery.back(after);
        }
        Ok(Err(HandlerError::Reject { reason })) => {
            tracing::error!(task = %message.task_id, "message rejected: {reason}");
            delivery.done();
        }
        Err(_) => {
            tracing::error!(task = %message.task_id, "the message's handler panicked");
            delivery.back(PANIC_RETRY_DELAY);
        }
    }
}
