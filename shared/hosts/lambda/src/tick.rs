//! Serves the schedule: the handler's work, the pulse, and the metrics for alarms.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use watchbill_aws::lanes::depth;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Key, NewItem, Precondition, Write};
use watchbill_core::service::{Context, Core, ParkedSummary, TransactError};
use watchbill_domain::AGENTS;

use super::{Metric, Unit, emit, serve, time_left};
use crate::config::Setup;

/// Dead-letter queues that belong to no agent.
const OTHER_DEAD_LETTERS: &[&str] = &["notify-dead", "events-dead"];
/// A task's wait for its first claim is reported only if it is longer than this.
const LONG: Duration = Duration::from_secs(60);

/// Time that the work leaves at its end, for a call that is still running and for the metrics.
const LEFT: Duration = Duration::from_secs(8);

/// Time for the pulse and the metrics alone.
const SUMS: Duration = Duration::from_secs(4);

/// What a tick found.
#[derive(Clone, Copy, Debug, Default)]
pub struct TickResult {
    /// Items that could not be processed.
    pub failed: usize,
    /// How long the longest waiting task has waited.
    pub oldest: Duration,
    /// What waits to be recorded or sent.
    pub parked: ParkedSummary,
}

/// Written at each tick, so that both readers of the feed run at least once a minute and alarms
/// can tell an idle installation from one whose readers are off. The readers skip this kind, as
/// every unknown one.
pub const PULSE: &str = "pulse";

/// The dead-letter queues, as template.yaml names them.
pub fn dead_letters() -> impl Iterator<Item = &'static str> {
    AGENTS.iter().map(|info| info.dead_letters).chain(OTHER_DEAD_LETTERS.iter().copied())
}

async fn pulse(context: &Context) -> Result<(), TransactError> {
    let key = Key::new("SYS#pulse", "0");
    let stored = context.store().get(&key).await?;
    let expect = stored.map_or(Precondition::Absent, |item| Precondition::Version(item.version));
    let item = NewItem {
        key,
        kind: PULSE.into(),
        schema: 1,
        body: "{}".into(),
        list: None,
        list2: None,
        due: None,
        expires: None,
    };
    let writes = vec![Write::Put { item, expect }];
    // Only one attempt, because little time is left. On a conflict another tick was faster.
    context.transact_within(writes, Duration::ZERO).await?.ok();
    Ok(())
}

/// Serves the schedule: first the handler's work, within a given time, then the metrics for
/// alarms. Zeros are not sent, and alarms treat missing data as healthy.
pub async fn serve_tick<F, Fut>(setup: &Setup, core: Core, work: F) -> anyhow::Result<()>
where
    F: Fn(Duration) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<TickResult, HandlerError>> + Send + 'static,
{
    let (client, queues) = (setup.sqs(), setup.queues()?);
    let (stack, clock) = (Arc::<str>::from(setup.stack()), setup.clock.clone());
    // If the work fails, the last known parked items are reported: no result does not mean none.
    let last = Arc::new(Mutex::new(ParkedSummary::default()));
    serve(move |_tick: Value, context| {
        let (work, client, queues) = (work.clone(), client.clone(), queues.clone());
        let (stack, clock, last) = (stack.clone(), clock.clone(), last.clone());
        let core = core.clone();
        async move {
            let left = time_left(&context, clock.now());
            // The work checks the clock before each step. A step that hangs must not block the
            // metrics.
            let most = left.saturating_sub(SUMS);
            let found = tokio::time::timeout(most, work(left.saturating_sub(LEFT))).await;
            let found = found.unwrap_or_else(|_| {
                let reason = format!("the tick's work did not finish within {} s", most.as_secs());
                Err(HandlerError::retry(Duration::ZERO, reason))
            });
            if let Err(error) = pulse(core.context()).await {
                tracing::warn!("the feed's pulse could not be written: {error}");
            }
            let depths = dead_letters().map(|name| {
                let (client, url) = (&client, queues.url(name));
                async move { depth(client, &url).await }
            });
            let mut dead = 0;
            for depth in join_all(depths).await {
                match depth {
                    Ok(depth) => dead += depth,
                    Err(reason) => tracing::warn!("dead letters can't be counted: {reason}"),
                }
            }
            let TickResult { failed, oldest, parked } = {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let failed = TickResult { failed: 1, parked: *last, ..TickResult::default() };
                let found = found.as_ref().copied().unwrap_or(failed);
                *last = found.parked;
                found
            };
            let oldest = if oldest > LONG { oldest } else { Duration::ZERO };
            let parked_for = parked.since.map(|since| clock.now().since(since)).unwrap_or_default();
            let count = |name, value| Metric { name, value, unit: Unit::Count };
            let metrics = [
                count("DeadLetters", dead as f64),
                count("SweepFailures", failed as f64),
                count("ParkedItems", parked.items.max(parked.tenants) as f64),
                Metric {
                    name: "OldestMessageAge",
                    value: oldest.as_secs_f64(),
                    unit: Unit::Seconds,
                },
                Metric {
                    name: "OldestParkedAge",
                    value: parked_for.as_secs_f64(),
                    unit: Unit::Seconds,
                },
            ];
            emit(&stack, clock.now(), &metrics);
            found.map_err(anyhow::Error::from).map(|_| Value::Null)
        }
    })
    .await
}
