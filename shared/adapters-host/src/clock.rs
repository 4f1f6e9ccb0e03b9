use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use watchbill_core::domain::Timestamp;
use watchbill_core::ports::Clock;

/// The machine's clock. Its wall time never goes back within the process: where the
/// machine's is set back, it stands still until it has caught up.
pub struct SystemClock {
    begun: Instant,
    latest: AtomicI64,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real source")]
    pub fn new() -> Self {
        Self { begun: Instant::now(), latest: AtomicI64::new(0) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real source")]
    fn now(&self) -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        let latest = self.latest.fetch_max(millis, Ordering::Relaxed).max(millis);
        Timestamp::from_millis(latest)
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn sleep(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }
}
