//! Connects Lambda to the handlers: a loop per kind of event source, and the configuration.
//!
//! - `config`: the settings from the environment, and the ports made from them.
//! - `agent`: an agent's lanes, from message to run.
//! - `lane`: messages of a lane, each handled in its own tokio task.
//! - `feed`: changes from the table's stream, in order.
//! - `events`: events one at a time. `tick`: the schedule. `notices`: the notify lane.
//! - `rounds`: the schedule of work that may fill the function's time.
//! - `log`: the log, and metrics in CloudWatch's embedded format.
//!
//! To add a kind of event source: a module with its loop, and a `serve_…` that a main calls.
//!
//! Failures are reported per message, or from a stream position on, so that finished work is not
//! repeated. Nothing starts that can't end within the function's time.

mod agent;
pub mod config;
mod events;
mod feed;
mod lane;
mod log;
mod notices;
mod rounds;
mod tick;

use std::pin::Pin;
use std::time::Duration;

use lambda_runtime::{Context, Diagnostic, LambdaEvent, run, service_fn};
use watchbill_domain::Timestamp;

pub use agent::{AgentLane, serve_agent};
pub use events::{Events, serve_events};
pub use feed::{BatchAnswer, ItemFailure, LeftOut, StreamConsumer, StreamHandler, serve_feed};
pub use lane::{Lane, LaneHandler, Message};
pub use log::{Metric, Unit, emit, start_log};
pub use notices::{NoticeHandler, serve_notices};
pub use rounds::serve_rounds;
pub use tick::{TickResult, dead_letters, serve_tick};

type HandlerFuture<A> = Pin<Box<dyn Future<Output = Result<A, Diagnostic>> + Send>>;

/// Serves one kind of event until Lambda ends the process.
pub async fn serve<E, A, F, Fut>(handler: F) -> anyhow::Result<()>
where
    E: for<'de> serde::Deserialize<'de> + Send + 'static,
    A: serde::Serialize + Send + 'static,
    F: Fn(E, Context) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<A>> + Send + 'static,
{
    let service = service_fn(move |event: LambdaEvent<E>| {
        let answer = handler(event.payload, event.context);
        // Boxed, because the runtime's own types around it are nested deeply enough.
        let answer: HandlerFuture<A> = Box::pin(async move {
            answer.await.map_err(|error| Diagnostic {
                error_type: "watchbill".to_owned(),
                error_message: format!("{error:#}"),
            })
        });
        answer
    });
    run(service).await.map_err(|error| anyhow::anyhow!(error).context("the Lambda runtime failed"))
}

/// How much of an invocation's time is left.
pub(crate) fn time_left(context: &Context, now: Timestamp) -> Duration {
    let deadline = i64::try_from(context.deadline).unwrap_or(i64::MAX);
    Timestamp::from_millis(deadline).since(now)
}
