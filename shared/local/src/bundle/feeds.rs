//! The two readers of the change feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use watchbill_adapters_local::sqlite::Feed;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Change, Clock};
use watchbill_recorder::Recorder;
use watchbill_router::Router;

use super::position::Keeper;

/// Changes taken at once.
const ROUTE: usize = 1_024;
const RECORD: usize = 1_024;
/// Changes are recorded together if they come within this time: one batch for many.
const GATHER: Duration = Duration::from_millis(10);

/// How far the readers have come.
#[derive(Default)]
pub struct Lag {
    routed: AtomicU64,
    recorded: AtomicU64,
}

/// Changes not seen yet.
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

/// What a reader's loop looks at besides the feed.
pub struct Watch {
    pub clock: Arc<dyn Clock>,
    pub lag: Arc<Lag>,
    pub stopped: watch::Receiver<bool>,
}

impl Watch {
    /// The next changes; nothing once the bundle has stopped and the feed is read to its end.
    async fn next(&mut self, feed: &mut Feed, most: usize) -> Option<Vec<(u64, Change)>> {
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
}

pub async fn route(router: Router, mut feed: Feed, mut watch: Watch) {
    watch.lag.routed.store(feed.position(), Ordering::Relaxed);
    while let Some(numbered) = watch.next(&mut feed, ROUTE).await {
        let changes: Vec<Change> = numbered.into_iter().map(|(_, change)| change).collect();
        until_done(&watch, "routed", || router.route(&changes)).await;
        watch.lag.routed.store(feed.position(), Ordering::Relaxed);
    }
}

pub async fn record(recorder: Recorder, mut feed: Feed, mut keeper: Keeper, mut watch: Watch) {
    watch.lag.recorded.store(feed.position(), Ordering::Relaxed);
    until_done(&watch, "published", || recorder.catch_up()).await;
    while let Some(numbered) = watch.next(&mut feed, RECORD).await {
        let full = numbered.len() == RECORD;
        let changes: Vec<Change> = numbered.into_iter().map(|(_, change)| change).collect();
        until_done(&watch, "recorded", || recorder.record(&changes)).await;
        watch.lag.recorded.store(feed.position(), Ordering::Relaxed);
        keeper.reached(feed.position()).await;
        if !full {
            watch.clock.sleep(GATHER).await;
        }
    }
    if let Err(error) = recorder.save().await {
        tracing::warn!("the folds are not kept: {error}");
    }
    keeper.save(feed.position()).await;
}

/// Again and again until it is done: the feed waits, nothing is left out.
async fn until_done<F, Fut>(watch: &Watch, what: &str, work: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), HandlerError>>,
{
    while let Err(error) = work().await {
        let after = match &error {
            HandlerError::Retry { after, .. } => *after,
            HandlerError::Reject { .. } => Duration::from_secs(5),
        };
        tracing::warn!("changes can't be {what} yet: {error}");
        if *watch.stopped.borrow() {
            return;
        }
        watch.clock.sleep(after).await;
    }
}
