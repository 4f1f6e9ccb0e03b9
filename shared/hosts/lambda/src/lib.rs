//! What stands between Lambda and our handlers: the one loop for each kind of event source, and
//! how a function is set up.
//!
//! - `config`: what the environment says, and the ports that are wired from it.
//! - `agent`: an agent's lanes, from message to run.
//! - `lane`: messages of a lane, each handled in a task of its own.
//! - `feed`: changes from the table's stream, in order.
//! - `events`: events one at a time. `tick`: the schedule. `notices`: the notify lane.
//! - `rounds`: the schedule of work that may fill the function's time.
//! - `log`: the log, and metrics in CloudWatch's embedded format.
//!
//! How to add a kind of event source: a module with its loop, and a `serve_…` that a main calls
//! with the handler.
//!
//! Failures are reported for each message or from a place in the stream on, so that what was
//! done is not done again. Nothing is begun that the function's time would not let end.

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
pub use feed::{BatchAnswer, Feed, FeedHandler, ItemFailure, LeftOut, serve_feed};
pub use lane::{Lane, LaneHandler, Message};
pub use log::{Metric, Unit, emit, start_log};
pub use notices::{NoticeHandler, serve_notices};
pub use rounds::serve_rounds;
pub use tick::{Found, dead_letters, serve_tick};

type Answer<A> = Pin<Box<dyn Future<Output = Result<A, Diagnostic>> + Send>>;

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
        // Boxed, because the runtime's own types around it are deep enough.
        let answer: Answer<A> = Box::pin(async move {
            answer.await.map_err(|error| Diagnostic {
                error_type: "watchbill".to_owned(),
                error_message: format!("{error:#}"),
            })
        });
        answer
    });
    run(service).await.map_err(|error| anyhow::anyhow!("the Lambda runtime broke off: {error}"))
}

/// How much of an invocation's time is left.
pub(crate) fn time_left(context: &Context, now: Timestamp) -> Duration {
    let deadline = i64::try_from(context.deadline).unwrap_or(i64::MAX);
    Timestamp::from_millis(deadline).since(now)
}
