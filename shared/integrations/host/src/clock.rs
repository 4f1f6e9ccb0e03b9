//! The system clock, which never goes back within the process, and after a step back of the
//! machine's clock stands still for at most a second.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use watchbill_core::ports::Clock;
use watchbill_domain::Timestamp;

/// A clock set back by up to this much is waited for: time stands still meanwhile. NTP makes
/// such corrections all the time, and they are shorter than any lease or margin.
const WAITED_FOR: Duration = Duration::from_secs(1);

/// The machine's wall clock in ms since 1970, and the time since the process started.
struct Reading {
    wall: i64,
    monotonic: Duration,
}

type Source = Box<dyn Fn() -> Reading + Send + Sync>;

/// The machine's clock. If it is set back, the wall time continues from the latest value at the
/// monotonic clock's rate until the machine's clock has caught up.
pub struct SystemClock {
    read: Source,
    latest: AtomicI64,
    is_ahead: AtomicBool,
    ahead: Mutex<Option<ClockOffset>>,
}

/// Start of the monotonic counting: wall time in ms, and monotonic time.
#[derive(Clone, Copy)]
struct ClockOffset {
    from: i64,
    since: Duration,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock port's real source")]
    pub fn new() -> Self {
        let begun = Instant::now();
        Self::of(move || {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wall = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
            Reading { wall, monotonic: begun.elapsed() }
        })
    }

    fn of(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self {
            read: Box::new(read),
            latest: AtomicI64::new(0),
            is_ahead: AtomicBool::new(false),
            ahead: Mutex::default(),
        }
    }

    /// The maximum of the latest time returned and this one.
    fn at_least(&self, millis: i64) -> i64 {
        self.latest.fetch_max(millis, Ordering::Relaxed).max(millis)
    }

    /// Time counted by the monotonic clock from the latest time returned.
    fn count_on(&self, reading: &Reading) -> i64 {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = self.latest.load(Ordering::Relaxed);
        let began = ahead.get_or_insert_with(|| {
            self.is_ahead.store(true, Ordering::Relaxed);
            let back = latest - reading.wall;
            tracing::warn!(
                back_ms = back,
                "the machine's clock was set back: time continues by the monotonic clock until the \
                 machine's clock has caught up; restart to use the machine's clock at once"
            );
            ClockOffset { from: latest, since: reading.monotonic }
        });
        let passed = reading.monotonic.saturating_sub(began.since).as_millis();
        began.from.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// Ends the monotonic counting.
    fn caught_up(&self) {
        let was = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_ahead.store(false, Ordering::Relaxed);
        if was.is_some() {
            tracing::warn!("the machine's clock has caught up and is used again");
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let reading = (self.read)();
        let latest = self.at_least(reading.wall);
        let is_ahead = self.is_ahead.load(Ordering::Relaxed);
        if latest == reading.wall {
            if is_ahead {
                self.caught_up();
            }
            return Timestamp::from_millis(latest);
        }
        if !is_ahead && latest - reading.wall <= WAITED_FOR.as_millis() as i64 {
            return Timestamp::from_millis(latest);
        }
        let counted = self.count_on(&reading);
        Timestamp::from_millis(self.at_least(counted))
    }

    fn monotonic(&self) -> Duration {
        (self.read)().monotonic
    }

    async fn sleep(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }

    fn ahead(&self) -> Duration {
        let wall = (self.read)().wall;
        let now = self.now().millis();
        match self.is_ahead.load(Ordering::Relaxed) {
            true => Duration::from_millis(u64::try_from(now - wall).unwrap_or_default()),
            false => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A machine with clocks set by the test.
    #[derive(Clone, Default)]
    struct Machine {
        wall: Arc<AtomicI64>,
        monotonic: Arc<AtomicU64>,
    }

    impl Machine {
        fn clock(&self) -> SystemClock {
            let machine = self.clone();
            SystemClock::of(move || Reading {
                wall: machine.wall.load(Ordering::Relaxed),
                monotonic: Duration::from_millis(machine.monotonic.load(Ordering::Relaxed)),
            })
        }

        fn passes(&self, millis: u64) {
            self.wall.fetch_add(millis as i64, Ordering::Relaxed);
            self.monotonic.fetch_add(millis, Ordering::Relaxed);
        }

        fn steps(&self, millis: i64) {
            self.wall.fetch_add(millis, Ordering::Relaxed);
        }
    }

    const DAY: i64 = 24 * 60 * 60 * 1_000;

    #[test]
    fn after_a_step_ahead_and_back_time_continues() {
        let machine = Machine::default();
        let clock = machine.clock();
        machine.steps(DAY);
        assert_eq!(clock.now().millis(), DAY);
        machine.steps(DAY);
        assert_eq!(
            clock.now().millis(),
            2 * DAY,
            "a step ahead is followed: the machine may have slept"
        );
        machine.steps(-DAY);
        assert_eq!(
            (clock.now().millis(), clock.ahead()),
            (2 * DAY, Duration::from_millis(DAY as u64))
        );
        machine.passes(60_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 60_000, "a lease of a minute has ended");
        machine.passes(60_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 120_000);
        // A second step back and a small step forward change nothing.
        machine.steps(-DAY / 2);
        machine.passes(1_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 121_000);
        machine.steps(5_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 121_000);
        // The machine's clock has caught up and is used again.
        machine.steps(3 * DAY);
        let wall = machine.wall.load(Ordering::Relaxed);
        assert_eq!((clock.now().millis(), clock.ahead()), (wall, Duration::ZERO));
        machine.passes(10);
        assert_eq!(clock.now().millis(), wall + 10);
        // After another step back, time continues from here, not from the first start.
        machine.steps(-DAY);
        assert_eq!(clock.now().millis(), wall + 10);
        machine.passes(60_000);
        assert_eq!(clock.now().millis(), wall + 60_010);
    }

    /// Counts warnings.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicU64>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn one_warning_when_the_clock_is_set_back_and_one_when_it_has_caught_up() {
        let (machine, warnings) = (Machine::default(), Warnings::default());
        let clock = machine.clock();
        let warned = || warnings.0.load(Ordering::Relaxed);
        tracing::subscriber::with_default(warnings.clone(), || {
            machine.steps(DAY);
            clock.now();
            assert_eq!(warned(), 0, "a step ahead is followed");
            machine.steps(-DAY);
            for _ in 0..3 {
                clock.now();
                machine.passes(1_000);
            }
            assert_eq!(warned(), 1);
            machine.steps(2 * DAY);
            clock.now();
            clock.now();
            assert_eq!(warned(), 2);
        });
    }

    #[test]
    fn a_small_step_back_stops_time_until_it_is_made_up() {
        let machine = Machine::default();
        let clock = machine.clock();
        machine.steps(DAY);
        clock.now();
        machine.steps(-800);
        assert_eq!((clock.now().millis(), clock.ahead()), (DAY, Duration::ZERO));
        machine.passes(799);
        assert_eq!(clock.now().millis(), DAY);
        machine.passes(2);
        assert_eq!(clock.now().millis(), DAY + 1, "the machine's clock is used again");
    }

    #[test]
    fn threads_never_see_time_go_back() {
        let machine = Machine::default();
        let clock = Arc::new(machine.clock());
        machine.steps(DAY);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut before = clock.now();
                    for _ in 0..20_000 {
                        let now = clock.now();
                        assert!(now >= before, "{now:?} after {before:?}");
                        before = now;
                    }
                });
            }
            for n in 0..20_000_i64 {
                machine.passes(1);
                machine.steps([0, 5_000, -5_003][n as usize % 3]);
            }
        });
    }
}
