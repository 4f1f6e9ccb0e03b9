//! A clock for tests that moves only when the test moves it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use watchbill_core::ports::Clock;
use watchbill_domain::Timestamp;

/// A clock that only a test moves. Wall time and monotonic time start together and move
/// together; [`FakeClock::step_wall`] moves the wall time alone.
pub struct FakeClock {
    inner: Mutex<Inner>,
    auto: bool,
}

struct Inner {
    wall: Timestamp,
    monotonic: Duration,
    sleepers: Vec<(Duration, oneshot::Sender<()>)>,
}

impl FakeClock {
    /// Moves only by [`FakeClock::advance`] and similar calls.
    pub fn at(start: Timestamp) -> Self {
        Self::new(start, false)
    }

    /// Every sleep advances the clock and returns at once. For code in which only one task
    /// sleeps.
    pub fn auto(start: Timestamp) -> Self {
        Self::new(start, true)
    }

    fn new(start: Timestamp, auto: bool) -> Self {
        let inner = Inner { wall: start, monotonic: Duration::ZERO, sleepers: Vec::new() };
        Self { inner: Mutex::new(inner), auto }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances both times and wakes every sleeper whose time has come, the earliest first.
    pub fn advance(&self, by: Duration) {
        self.inner().advance(by);
    }

    /// Advances to the end of the shortest sleep. Returns `false` if nothing sleeps.
    pub fn advance_to_next(&self) -> bool {
        let mut inner = self.inner();
        let Some(next) = inner.sleepers.iter().map(|(until, _)| *until).min() else {
            return false;
        };
        let by = next.saturating_sub(inner.monotonic);
        inner.advance(by);
        true
    }

    /// Sets the wall time alone, backwards or forwards, as an operator or a time server does.
    pub fn step_wall(&self, to: Timestamp) {
        self.inner().wall = to;
    }

    /// The number of sleeps that have not ended. Dropped sleeps are not counted.
    pub fn sleepers(&self) -> usize {
        let mut inner = self.inner();
        inner.sleepers.retain(|(_, wake)| !wake.is_closed());
        inner.sleepers.len()
    }
}

impl Inner {
    fn advance(&mut self, by: Duration) {
        self.wall = self.wall.plus(by);
        self.monotonic += by;
        let now = self.monotonic;
        let (mut done, rest): (Vec<_>, Vec<_>) =
            self.sleepers.drain(..).partition(|(until, _)| *until <= now);
        self.sleepers = rest;
        done.sort_by_key(|(until, _)| *until);
        for (_, wake) in done {
            // The sleeper may have been dropped.
            let _ = wake.send(());
        }
    }
}

impl Default for FakeClock {
    /// Starts at 2025-10-20T10:00:00Z; moves only by hand.
    fn default() -> Self {
        Self::at(Timestamp::from_millis(1_760_954_400_000))
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.inner().wall
    }

    fn monotonic(&self) -> Duration {
        self.inner().monotonic
    }

    async fn sleep(&self, how_long: Duration) {
        if self.auto {
            self.inner().advance(how_long);
            // Lets other tasks run, as a real sleep does.
            return tokio::task::yield_now().await;
        }
        if how_long.is_zero() {
            return;
        }
        let woken = {
            let mut inner = self.inner();
            let until = inner.monotonic + how_long;
            let (wake, woken) = oneshot::channel();
            inner.sleepers.push((until, wake));
            woken
        };
        // An error means that the clock was dropped.
        let _ = woken.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_when_its_time_has_come_and_not_before() {
        let clock = Arc::new(FakeClock::default());
        let start = clock.now();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(5)).await;
                clock.now()
            }
        });
        while clock.sleepers() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(4));
        assert_eq!(clock.sleepers(), 1);
        assert!(clock.advance_to_next());
        assert_eq!(sleeper.await.unwrap(), start.plus(Duration::from_secs(5)));
        assert!(!clock.advance_to_next());
    }

    #[tokio::test]
    async fn an_automatic_clock_moves_by_being_slept_on() {
        let clock = FakeClock::auto(Timestamp::from_millis(0));
        clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(clock.now().millis(), 60_000);
        clock.step_wall(Timestamp::from_millis(5));
        assert_eq!((clock.now().millis(), clock.monotonic().as_secs()), (5, 60));
    }
}
