//! Runs the directions: each takes its steps independently, waits between them, and retries
//! after errors.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use watchbill_core::handler::panic_text;
use watchbill_core::ports::Clock;
use watchbill_wire::legacy::LegacyError;

use crate::BridgeContext;
use crate::backend::BackendError;
use crate::report::{Link, Metrics};

/// First and longest wait while Redis is unreachable, with exponential backoff.
const UNREACHABLE_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));
/// The same while it refuses requests, until someone fixes it there.
const REFUSED_BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A bug of ours: a panic in one step must not end the direction.
    #[error("a step panicked: {0}")]
    Panicked(String),
}

/// What to do after a step.
pub(crate) enum NextStep {
    /// Step again: there is more to do.
    On,
    /// Nothing to do for now: step again after this long, or when woken.
    Wait(Duration),
}

/// One direction of the bridge.
#[async_trait]
pub(crate) trait Direction: Send {
    fn name(&self) -> &'static str;

    /// A notification that ends its wait early.
    fn woken_by(&self) -> Option<Arc<Notify>> {
        None
    }

    /// Does a bounded amount of work. After an error the same step is retried.
    async fn step(&mut self) -> Result<NextStep, SyncError>;

    /// Called once, at the end.
    async fn stop(&mut self) {}
}

/// When the directions end.
#[derive(Clone)]
pub(crate) struct Shutdown {
    pub stopped: watch::Receiver<bool>,
    /// On the monotonic clock.
    pub deadline: Option<Duration>,
}

impl Shutdown {
    fn is_over(&self, clock: &dyn Clock) -> bool {
        *self.stopped.borrow() || self.deadline.is_some_and(|end| clock.monotonic() >= end)
    }

    /// Sleeps until `how_long` has passed, a wake-up, or the end.
    async fn sleep(&mut self, clock: &dyn Clock, how_long: Duration, wake: Option<&Notify>) {
        let left = self.deadline.map(|end| end.saturating_sub(clock.monotonic()));
        let how_long = left.map_or(how_long, |left| left.min(how_long));
        let woken = async {
            match wake {
                Some(wake) => wake.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = clock.sleep(how_long) => {}
            () = woken => {}
            // An error means that the sender is gone, which also ends the loop.
            _ = self.stopped.wait_for(|stop| *stop) => {}
        }
    }
}

/// Whether any direction is working.
#[derive(Default)]
pub(crate) struct Activity {
    /// Directions that are within a step.
    stepping: AtomicUsize,
    /// Steps so far that found more to do.
    moves: AtomicUsize,
}

/// How often the activity is polled.
const ACTIVITY_POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Activity {
    async fn step(&self, direction: &mut dyn Direction) -> Result<NextStep, SyncError> {
        self.stepping.fetch_add(1, Ordering::Relaxed);
        let done = step(direction).await;
        if matches!(done, Ok(NextStep::On)) {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        self.stepping.fetch_sub(1, Ordering::Relaxed);
        done
    }

    /// Returns once no step has found work for `quiet` and none is running. A long step counts
    /// as work.
    pub async fn is_quiet_for(&self, clock: &dyn Clock, quiet: Duration) {
        let (mut moves, mut since) = (0, clock.monotonic());
        loop {
            clock.sleep(ACTIVITY_POLL_INTERVAL.min(quiet)).await;
            let now = (self.moves.load(Ordering::Relaxed), clock.monotonic());
            if now.0 != moves {
                (moves, since) = now;
            }
            let idle = self.stepping.load(Ordering::Relaxed) == 0;
            if idle && now.1.saturating_sub(since) >= quiet {
                return;
            }
        }
    }
}

pub(crate) async fn run_loop(
    mut direction: Box<dyn Direction>,
    context: BridgeContext,
    metrics: Arc<Metrics>,
    activity: Arc<Activity>,
    mut until: Shutdown,
) {
    let clock = context.clock.clone();
    let wake = direction.woken_by();
    let mut failures = 0;
    while !until.is_over(&*clock) {
        let error = match activity.step(&mut *direction).await {
            Ok(pace) => {
                failures = 0;
                metrics.set_trouble(direction.name(), None);
                if let NextStep::Wait(how_long) = pace {
                    until.sleep(&*clock, how_long, wake.as_deref()).await;
                }
                continue;
            }
            Err(error) => error,
        };
        log_error(direction.name(), &error, &metrics);
        let (first, most) = match &error {
            SyncError::Legacy(LegacyError::Away(_)) => UNREACHABLE_BACKOFF,
            SyncError::Backend(BackendError::Retry { after, .. }) => {
                (*after, Duration::from_secs(30))
            }
            SyncError::Legacy(_) | SyncError::Backend(_) | SyncError::Panicked(_) => {
                REFUSED_BACKOFF
            }
        };
        until.sleep(&*clock, back_off(&context, first, most, failures), None).await;
        failures += 1;
    }
    direction.stop().await;
}

/// A step may be cancelled anywhere, so a panic is safe too.
async fn step(direction: &mut dyn Direction) -> Result<NextStep, SyncError> {
    match AssertUnwindSafe(direction.step()).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(SyncError::Panicked(panic_text(&*panic).to_owned())),
    }
}

/// Logs an error if it is new. All directions find an unreachable Redis; it is logged once.
fn log_error(direction: &'static str, error: &SyncError, metrics: &Metrics) {
    let text = error.to_string();
    let news = metrics.set_trouble(direction, Some(text.clone()));
    let news = match error {
        SyncError::Legacy(LegacyError::Away(_)) => {
            metrics.set_link(Link::Unreachable(text.clone()))
        }
        _ => news,
    };
    if news {
        tracing::warn!(direction, error = text, "redis: a direction failed");
    }
}

/// Exponential backoff with jitter: between half and all of the wait, so that directions that
/// failed together do not retry together.
fn back_off(context: &BridgeContext, first: Duration, most: Duration, failures: u32) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(failures.min(16))).min(most);
    let fraction = (context.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    whole.mul_f64(0.5 + fraction / 2.0)
}
