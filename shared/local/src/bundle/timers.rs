use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use watchbill_adapters_local::sqlite::SqliteStore;
use watchbill_core::ports::Clock;
use watchbill_sweeper::Sweeper;

/// Items looked at in one sweep.
const SWEEP: usize = 10_000;
/// What has expired is removed this often, so many items at a time.
const KEEP_EVERY: Duration = Duration::from_secs(600);
const PURGE: usize = 1_000;

/// Looks at what is due, again and again.
pub async fn sweep(
    sweeper: Sweeper,
    clock: Arc<dyn Clock>,
    every: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    while wait(&clock, every, &mut stopped).await {
        match sweeper.sweep(SWEEP).await {
            Ok(swept) if swept.changed + swept.failed > 0 => {
                tracing::debug!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::error!("nothing can be swept: {error}"),
        }
    }
}

/// Removes what has expired.
pub async fn keep(
    store: Arc<SqliteStore>,
    clock: Arc<dyn Clock>,
    mut stopped: watch::Receiver<bool>,
) {
    while wait(&clock, KEEP_EVERY, &mut stopped).await {
        loop {
            match store.purge_expired(clock.now(), PURGE).await {
                Ok(gone) if gone >= PURGE => tokio::task::yield_now().await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!("expired items are not removed: {error}");
                    break;
                }
            }
        }
    }
}

/// False when the bundle stops.
async fn wait(
    clock: &Arc<dyn Clock>,
    every: Duration,
    stopped: &mut watch::Receiver<bool>,
) -> bool {
    if *stopped.borrow() {
        return false;
    }
    tokio::select! {
        () = clock.sleep(every) => true,
        _ = stopped.changed() => false,
    }
}
