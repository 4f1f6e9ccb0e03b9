//! Serves a schedule of work that may fill the function's time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Metric, emit, serve, time_left};
use crate::config::Setup;

/// Time that a round leaves at its end for a step that is still running.
const LEFT: Duration = Duration::from_secs(10);

/// Serves a schedule. The work gets the time that it may take, and returns metrics, which are
/// sent.
pub async fn serve_rounds<F, Fut>(setup: &Setup, work: F) -> anyhow::Result<()>
where
    F: Fn(Duration) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Vec<Metric>> + Send + 'static,
{
    let (stack, clock) = (Arc::<str>::from(setup.stack()), setup.clock.clone());
    serve(move |_tick: Value, context| {
        let (work, stack, clock) = (work.clone(), stack.clone(), clock.clone());
        async move {
            let lasts = time_left(&context, clock.now()).saturating_sub(LEFT);
            let metrics = work(lasts).await;
            emit(&stack, clock.now(), &metrics);
            Ok(Value::Null)
        }
    })
    .await
}
