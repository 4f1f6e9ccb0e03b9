use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use watchbill_aws::lanes::depth;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Expect, Key, NewItem, Write};
use watchbill_core::service::{Context, Core, ParkedSummary, TransactError};
use watchbill_domain::AGENTS;

use super::{Metric, Unit, emit, serve, time_left};
use crate::config::Setup;

/// Dead letters of lanes that are no agent's.
const OTHER_DEAD_LETTERS: &[&str] = &["notify-dead", "events-dead"];
/// A task that waits longer than this for its first claim is told of.
const LONG: Duration = Duration::from_secs(60);

/// What the work leaves of its function's time, for a call in its midst and for the sums.
const LEFT: Duration = Duration::from_secs(8);

/// And for the pulse and the sums alone.
const SUMS: Duration = Duration::from_secs(4);

/// What a tick found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Items that could not be dealt with.
    pub failed: usize,
    /// For how long the task that waits longest has waited.
    pub oldest: Duration,
    /// What waits to be recorded or sent.
    pub parked: ParkedSummary,
}

/// What is written at each tick, so that both readers of the feed run at least once a minute: an
/// installation at rest looks different from one whose readers are switched off, and alarms can tell.
/// The readers pass over it, as over every kind that they don't know.
pub const PULSE: &str = "pulse";

/// The queues where messages end that nobody can handle, as template.yaml names them.
pub fn dead_letters() -> impl Iterator<Item = &'static str> {
    AGENTS.iter().map(|info| info.dead_letters).chain(OTHER_DEAD_LETTERS.iter().copied())
}

async fn pulse(context: &Context) -> Result<(), TransactError> {
    let key = Key::new("SYS#pulse", "0");
    let there = context.store().get(&key).await?;
    let expect = there.map_or(Expect::Absent, |there| Expect::Version(there.version));
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
    // Tried once, because little time is left. On a conflict another tick was faster.
    context.transact_within(writes, Duration::ZERO).await?.ok();
    Ok(())
}

/// Serves the schedule: the handler's work first, which is told how long it may take, then the sums
/// that alarms are set on. They are sent where they are not zero, and an alarm takes silence for
/// health.
pub async fn serve_tick<F, Fut>(setup: &Setup, core: Core, work: F) -> anyhow::Result<()>
where
    F: Fn(Duration) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Found, HandlerError>> + Send + 'static,
{
    let (client, queues) = (setup.sqs(), setup.queues()?);
    let (stack, clock) = (Arc::<str>::from(setup.stack()), setup.clock.clone());
    // Not to have looked is not to have found nothing: what is parked is what was found last.
    let last = Arc::new(Mutex::new(ParkedSummary::default()));
    serve(move |_tick: Value, context| {
        let (work, client, queues) = (work.clone(), client.clone(), queues.clone());
        let (stack, clock, last) = (stack.clone(), clock.clone(), last.clone());
        let core = core.clone();
        async move {
            let left = time_left(&context, clock.now());
            // It looks at the clock before each of its steps; one that hangs must not keep the sums.
            let most = left.saturating_sub(SUMS);
            let found = tokio::time::timeout(most, work(left.saturating_sub(LEFT))).await;
            let found = found.unwrap_or_else(|_| {
                let reason = format!("the tick's work is not done after {} s", most.as_secs());
                Err(HandlerError::retry(Duration::ZERO, reason))
            });
            if let Err(error) = pulse(core.context()).await {
                tracing::warn!("the feed's pulse is not written: {error}");
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
            let Found { failed, oldest, parked } = {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let failed = Found { failed: 1, parked: *last, ..Found::default() };
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
