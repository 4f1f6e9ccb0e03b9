//! The two readers of the change feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock};
use watchbill_domain::TenantId;
use watchbill_recorder::Recorder;
use watchbill_router::Router;
use watchbill_sqlite::sqlite::ChangeFeed;

use super::position::FeedCheckpoint;

/// How many changes are read at a time.
const ROUTE: usize = 1_024;
const RECORD: usize = 1_024;
/// Time between ledger batches while few changes arrive, so that they share one. It delays
/// readers of the events by at most this. A change after a silence is recorded at once.
const GATHER_FEW: Duration = Duration::from_millis(250);
/// The same while so many changes arrive that they fill a batch well in less time.
const GATHER_MANY: Duration = Duration::from_millis(100);
const MANY: usize = 32;
/// How often the counts of tasks are saved, while there are changes and once after they end.
const KEEP_COUNTS: Duration = Duration::from_millis(500);

/// How long the feed must be quiet before the next tenants are caught up with.
const CATCH_UP_AFTER: Duration = Duration::from_millis(5);

/// The positions of the readers.
#[derive(Default)]
pub struct Lag {
    routed: AtomicU64,
    recorded: AtomicU64,
}

/// The number of changes not processed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagReport {
    pub router: u64,
    pub recorder: u64,
}

impl Lag {
    pub fn report(&self, last: u64) -> LagReport {
        LagReport {
            router: last.saturating_sub(self.routed.load(Ordering::Relaxed)),
            recorder: last.saturating_sub(self.recorded.load(Ordering::Relaxed)),
        }
    }
}

/// What a reader's loop needs besides the feed.
pub struct ReaderContext {
    pub clock: Arc<dyn Clock>,
    pub lag: Arc<Lag>,
    pub stopped: watch::Receiver<bool>,
}

impl ReaderContext {
    /// The next changes. Returns `None` once the bundle has stopped and the feed is read to its
    /// end.
    async fn next(&mut self, feed: &mut ChangeFeed, most: usize) -> Option<Vec<(u64, Change)>> {
        loop {
            let stopping = *self.stopped.borrow();
            let next = tokio::select! {
                biased;
                next = feed.next(most) => next,
                () = self.clock.sleep(Duration::from_millis(200)), if stopping => return None,
                _ = self.stopped.changed(), if !stopping => continue,
            };
            match next {
                Ok(changes) => return Some(changes),
                Err(error) => {
                    tracing::error!("the change feed can't be read: {error}");
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Sleeps, unless the bundle stops.
    async fn pause(&mut self, how_long: Duration) {
        tokio::select! {
            () = self.clock.sleep(how_long) => {}
            // An error means that the sender was dropped, which ends this too.
            _ = self.stopped.wait_for(|stop| *stop) => {}
        }
    }
}

pub async fn route(router: Router, mut feed: ChangeFeed, mut watch: ReaderContext) {
    watch.lag.routed.store(feed.position(), Ordering::Relaxed);
    while let Some(numbered) = watch.next(&mut feed, ROUTE).await {
        let changes: Vec<Change> = numbered.into_iter().map(|(_, change)| change).collect();
        if until_done(&watch, "routed", || router.route(&changes)).await.is_none() {
            return;
        }
        watch.lag.routed.store(feed.position(), Ordering::Relaxed);
    }
}

pub async fn record(
    recorder: Recorder,
    mut feed: ChangeFeed,
    mut checkpoint: FeedCheckpoint,
    mut watch: ReaderContext,
) {
    // Everything up to here is recorded. No other position is ever saved.
    let mut recorded = feed.position();
    watch.lag.recorded.store(recorded, Ordering::Relaxed);
    let clock = watch.clock.clone();
    let mut left = CatchUp { after: None, ended: false };
    let mut counts = Counts { kept: clock.monotonic(), behind: true };
    loop {
        let catching_up = !left.ended && !*watch.stopped.borrow();
        let next = tokio::select! {
            biased;
            next = watch.next(&mut feed, RECORD) => next,
            // New changes go first.
            () = clock.sleep(CATCH_UP_AFTER), if catching_up => {
                left.step(&recorder, &watch).await;
                continue;
            }
            // The feed is quiet.
            () = counts.due(&*clock), if counts.behind => {
                counts.keep(&recorder, &*clock).await;
                continue;
            }
        };
        let Some(numbered) = next else { break };
        let began = clock.monotonic();
        let full = numbered.len() == RECORD;
        let changes: Vec<Change> = numbered.into_iter().map(|(_, change)| change).collect();
        let done = until_done(&watch, "recorded", || recorder.record(&changes)).await;
        let Some(entries) = done else { break };
        recorded = feed.position();
        watch.lag.recorded.store(recorded, Ordering::Relaxed);
        checkpoint.reached(recorded).await;
        // A feed that is never quiet must not block the tenants that wait for the catch-up.
        left.step(&recorder, &watch).await;
        counts.behind |= entries > 0;
        if counts.is_due(&*clock) {
            counts.keep(&recorder, &*clock).await;
        }
        if entries > 0 && !full {
            let took = watch.clock.monotonic().saturating_sub(began);
            watch.pause(gather(entries).saturating_sub(took)).await;
        }
    }
    if let Err(error) = recorder.save().await {
        tracing::warn!("the projections could not be saved: {error}");
    }
    checkpoint.save(recorded).await;
}

/// Publishes what the previous process recorded and may not have published: next to the feed,
/// some tenants at a time, so that thousands of tenants delay no changes.
struct CatchUp {
    after: Option<TenantId>,
    ended: bool,
}

impl CatchUp {
    async fn step(&mut self, recorder: &Recorder, watch: &ReaderContext) {
        if self.ended {
            return;
        }
        let after = self.after.as_ref();
        let next = until_done(watch, "published", || recorder.catch_up(after)).await;
        self.after = next.flatten();
        self.ended = self.after.is_none();
    }
}

/// When the recorder's counts of tasks were last saved. They are read for the service's
/// statistics.
struct Counts {
    kept: Duration,
    behind: bool,
}

impl Counts {
    fn is_due(&self, clock: &dyn Clock) -> bool {
        self.behind && clock.monotonic().saturating_sub(self.kept) >= KEEP_COUNTS
    }

    async fn due(&self, clock: &dyn Clock) {
        clock.sleep((self.kept + KEEP_COUNTS).saturating_sub(clock.monotonic())).await;
    }

    async fn keep(&mut self, recorder: &Recorder, clock: &dyn Clock) {
        recorder.quiet().await;
        *self = Self { kept: clock.monotonic(), behind: false };
    }
}

/// How long to gather after a batch of so many entries, counted from its beginning.
fn gather(entries: usize) -> Duration {
    if entries < MANY { GATHER_FEW } else { GATHER_MANY }
}

/// Retries a batch until its reader succeeds. Returns `None` if the bundle stops first; the next start
/// repeats it. Left out, without an error to retry, is what the feed itself can't read (a damaged
/// row) and what the router can't enqueue; the sweeper finds open tasks again by their due time.
async fn until_done<T, F, Fut>(watch: &ReaderContext, what: &str, work: F) -> Option<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, HandlerError>>,
{
    loop {
        let error = match work().await {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        let after = match &error {
            HandlerError::Retry { after, .. } => *after,
            HandlerError::Reject { .. } => Duration::from_secs(5),
        };
        tracing::warn!("changes can't be {what} yet: {error}");
        if *watch.stopped.borrow() {
            return None;
        }
        watch.clock.sleep(after).await;
    }
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
