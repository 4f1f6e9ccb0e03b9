use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Clock, Topic, Wake};

/// Until the first look of a caller that waits. Each look is a read and holds a run, so the looks
/// come at growing distances: half as long again each time, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(2);
/// Who waits for the same again within this goes on where they were.
const GOES_ON: Duration = Duration::from_secs(1);

/// Instances know nothing of each other's changes, so whoever waits looks again and again. An
/// instance has one call at a time, so the last wait is the one that may go on.
pub struct PollWake {
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Waited>>,
}

struct Waited {
    topic: Topic,
    looked: Duration,
    /// On the monotonic clock.
    ended: Duration,
}

impl PollWake {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Mutex::default() }
    }

    fn next_look(&self, topic: &Topic) -> Duration {
        let now = self.clock.monotonic();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |last: &&Waited| last.topic == *topic && now <= last.ended + GOES_ON;
        let longer = |last: &Waited| last.looked.mul_f64(1.5).min(LAST_LOOK);
        last.as_ref().filter(goes_on).map_or(FIRST_LOOK, longer)
    }
}

#[async_trait]
impl Wake for PollWake {
    fn mark(&self, _topic: &Topic) -> u64 {
        0
    }

    async fn wait(&self, topic: &Topic, _seen: u64, at_most: Duration) {
        let looked = self.next_look(topic);
        self.clock.sleep(at_most.min(looked)).await;
        let waited = Waited { topic: topic.clone(), looked, ended: self.clock.monotonic() };
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
    async fn a_long_wait_looks_less_and_less_often_and_a_new_one_soon() {
        let clock = Arc::new(FakeClock::auto(FakeClock::default().now()));
        let wake = PollWake::new(clock.clone());
        let topic = |name| Topic::Ledger(TenantId::parse(name).unwrap());
        let mut looks = Vec::new();
        let began = clock.monotonic();
        while clock.monotonic() - began < Duration::from_secs(25) {
            let before = clock.monotonic();
            wake.wait(&topic("a"), 0, Duration::from_secs(2)).await;
            looks.push(clock.monotonic() - before);
        }
        assert_eq!(looks[0], FIRST_LOOK);
        assert!(looks.is_sorted() && looks.last() == Some(&LAST_LOOK), "{looks:?}");
        assert!((12..=20).contains(&looks.len()), "{} looks", looks.len());
        for (next, pause) in [(topic("b"), Duration::ZERO), (topic("b"), 2 * GOES_ON)] {
            clock.advance(pause);
            let before = clock.monotonic();
            wake.wait(&next, 0, Duration::from_secs(2)).await;
            assert_eq!(clock.monotonic() - before, FIRST_LOOK);
        }
    }
}
