//! Waits by polling: Lambda instances do not see each other's changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Clock, Topic, Wake};

/// Delay before a caller's first poll. A poll is a read and occupies a function, so each delay
/// is 1.5 times the last, up to the maximum.
const FIRST_CHECK_DELAY: Duration = Duration::from_millis(250);
const MAX_CHECK_DELAY: Duration = Duration::from_secs(2);
/// A new wait for the same topic within this time continues with the last delay.
const GOES_ON: Duration = Duration::from_secs(1);

/// An instance has one call at a time, so only the last wait can continue.
pub struct PollWake {
    clock: Arc<dyn Clock>,
    last: Mutex<Option<WaitingTopic>>,
}

struct WaitingTopic {
    topic: Topic,
    delay: Duration,
    /// On the monotonic clock.
    ended: Duration,
}

impl PollWake {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Mutex::default() }
    }

    fn next_delay(&self, topic: &Topic) -> Duration {
        let now = self.clock.monotonic();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |last: &&WaitingTopic| last.topic == *topic && now <= last.ended + GOES_ON;
        let longer = |last: &WaitingTopic| last.delay.mul_f64(1.5).min(MAX_CHECK_DELAY);
        last.as_ref().filter(goes_on).map_or(FIRST_CHECK_DELAY, longer)
    }
}

#[async_trait]
impl Wake for PollWake {
    fn mark(&self, _topic: &Topic) -> u64 {
        0
    }

    async fn wait(&self, topic: &Topic, _seen: u64, at_most: Duration) {
        let delay = self.next_delay(topic);
        self.clock.sleep(at_most.min(delay)).await;
        let waited = WaitingTopic { topic: topic.clone(), delay, ended: self.clock.monotonic() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(waited);
    }

    fn wake(&self, _topic: &Topic) {}
}

#[cfg(test)]
mod tests {
    use watchbill_domain::TenantId;
    use watchbill_testkit::FakeClock;

    use super::*;

    #[tokio::test]
    async fn a_long_wait_polls_less_often_and_a_new_one_soon() {
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let wake = PollWake::new(clock.clone());
        let topic = |name| Topic::Ledger(TenantId::parse(name).unwrap());
        let mut delays = Vec::new();
        let began = clock.monotonic();
        while clock.monotonic() - began < Duration::from_secs(25) {
            let before = clock.monotonic();
            wake.wait(&topic("a"), 0, Duration::from_secs(2)).await;
            delays.push(clock.monotonic() - before);
        }
        assert_eq!(delays[0], FIRST_CHECK_DELAY);
        assert!(delays.is_sorted() && delays.last() == Some(&MAX_CHECK_DELAY), "{delays:?}");
        assert!((12..=20).contains(&delays.len()), "{} polls", delays.len());
        for (next, pause) in [(topic("b"), Duration::ZERO), (topic("b"), 2 * GOES_ON)] {
            clock.advance(pause);
            let before = clock.monotonic();
            wake.wait(&next, 0, Duration::from_secs(2)).await;
            assert_eq!(clock.monotonic() - before, FIRST_CHECK_DELAY);
        }
    }
}
