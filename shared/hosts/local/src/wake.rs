//! Wakes waiting followers within one process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_core::ports::{Topic, Wake};

/// How many bells all topics share. A wake-up for another topic only causes one more check.
const BELLS: usize = 2048;

/// Wakes followers within the process.
pub struct LocalWake {
    bells: Vec<Bell>,
}

#[derive(Default)]
struct Bell {
    mark: AtomicU64,
    rings: Notify,
}

impl LocalWake {
    pub fn new() -> Self {
        Self { bells: (0..BELLS).map(|_| Bell::default()).collect() }
    }

    fn bell(&self, topic: &Topic) -> &Bell {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        &self.bells[(hasher.finish() % BELLS as u64) as usize]
    }
}

impl Default for LocalWake {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Wake for LocalWake {
    fn mark(&self, topic: &Topic) -> u64 {
        self.bell(topic).mark.load(Ordering::Acquire)
    }

    async fn wait(&self, topic: &Topic, seen: u64, at_most: Duration) {
        let bell = self.bell(topic);
        let ringing = bell.rings.notified();
        tokio::pin!(ringing);
        // Registered before the mark is read, so that no wake-up is missed in between.
        ringing.as_mut().enable();
        if bell.mark.load(Ordering::Acquire) != seen {
            return;
        }
        // A timeout is a valid result too.
        let _ = tokio::time::timeout(at_most, ringing).await;
    }

    fn wake(&self, topic: &Topic) {
        let bell = self.bell(topic);
        bell.mark.fetch_add(1, Ordering::AcqRel);
        bell.rings.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use watchbill_domain::TenantId;

    #[expect(clippy::disallowed_methods, reason = "the paused clock of the test runtime")]
    #[tokio::test(start_paused = true)]
    async fn a_wake_up_between_mark_and_wait_is_not_missed() {
        let wake = LocalWake::new();
        let topic = Topic::Ledger(TenantId::default());
        let seen = wake.mark(&topic);
        wake.wake(&topic);
        let begun = tokio::time::Instant::now();
        wake.wait(&topic, seen, Duration::from_secs(20)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[expect(clippy::disallowed_methods, reason = "the paused clock of the test runtime")]
    #[tokio::test(start_paused = true)]
    async fn a_waiter_is_woken_or_runs_out_of_time() {
        let wake = Arc::new(LocalWake::new());
        let topic = Topic::Ledger(TenantId::default());
        let begun = tokio::time::Instant::now();
        let ringer = tokio::spawn({
            let (wake, topic) = (wake.clone(), topic.clone());
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                wake.wake(&topic);
            }
        });
        wake.wait(&topic, wake.mark(&topic), Duration::from_secs(20)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        ringer.await.unwrap();
        wake.wait(&topic, wake.mark(&topic), Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(6));
    }
}
