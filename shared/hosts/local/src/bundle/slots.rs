//! Slots take messages from the lanes and hand them to the executor of their agent.

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

/// A message whose handling broke off comes back after this.
const AFTER_PANIC: Duration = Duration::from_secs(5);

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

/// The one place where what a handler says becomes the fate of its message.
async fn handle(executors: &Executors, delivery: Delivery) {
    let message = delivery.message.clone();
    let Some(executor) = executors.get(&message.agent) else {
        // Its sweeper's offers run out one day and say so in the task.
        tracing::warn!(task = %message.task_id, "no {} agent runs here", message.agent);
        return delivery.done();
    };
    match AssertUnwindSafe(executor.handle(&message)).catch_unwind().await {
        Ok(Ok(())) => delivery.done(),
        Ok(Err(HandlerError::Retry { after, reason })) => {
            tracing::debug!(task = %message.task_id, "message comes back in {after:?}: {reason}");
            delivery.back(after);
        }
        Ok(Err(HandlerError::Reject { reason })) => {
            tracing::error!(task = %message.task_id, "message of task {} rejected: {reason}", message.task_id);
            delivery.done();
        }
        Err(_) => {
            tracing::error!(task = %message.task_id, "handling task {} broke off", message.task_id);
            delivery.back(AFTER_PANIC);
        }
    }
}
