//! The machine's clock, which never goes back within the process and never stands still.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use watchbill_core::ports::Clock;
use watchbill_domain::Timestamp;

/// Up to here a machine's clock that was set back is waited for: time stands still so long. It
/// is what NTP corrects all the time, and less than any lease or margin.
const WAITED_FOR: Duration = Duration::from_secs(1);

/// What the machine says: the wall clock in milliseconds since 1970, and the time since the
/// process began.
struct Reading {
    wall: i64,
    monotonic: Duration,
}

type Source = Box<dyn Fn() -> Reading + Send + Sync>;

/// The machine's clock. Where it was set back, the wall time given out goes on from the latest
/// at the pace of the monotonic clock, until the machine's has caught up.
pub struct SystemClock {
    read: Source,
    latest: AtomicI64,
    is_ahead: AtomicBool,
    ahead: Mutex<Option<Ahead>>,
}

/// Since when time is counted here, and from where.
#[derive(Clone, Copy)]
struct Ahead {
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

    /// The latest that was given out, or this if it is later.
    fn at_least(&self, millis: i64) -> i64 {
        self.latest.fetch_max(millis, Ordering::Relaxed).max(millis)
    }

    /// Time by the monotonic clock, from the latest that was given out.
    fn count_on(&self, reading: &Reading) -> i64 {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = self.latest.load(Ordering::Relaxed);
        let began = ahead.get_or_insert_with(|| {
            self.is_ahead.store(true, Ordering::Relaxed);
            let back = latest - reading.wall;
            tracing::warn!(
                back_ms = back,
                "the machine's clock was set back by {back} ms: time goes on here from where it \
                 was, by the monotonic clock, until the machine's has caught up; start again to \
                 go by the machine's at once"
            );
            Ahead { from: latest, since: reading.monotonic }
        });
        let passed = reading.monotonic.saturating_sub(began.since).as_millis();
        began.from.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// The machine's clock has caught up.
    fn caught_up(&self) {
        let was = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_ahead.store(false, Ordering::Relaxed);
        if was.is_some() {
            tracing::warn!("the machine's clock has caught up: time goes by it again");
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

    /// A machine whose clocks a test sets.
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
    fn after_a_jump_ahead_and_back_time_goes_on() {
        let machine = Machine::default();
        let clock = machine.clock();
        machine.steps(DAY);
        assert_eq!(clock.now().millis(), DAY);
        machine.steps(DAY);
        assert_eq!(clock.now().millis(), 2 * DAY, "ahead it follows: the machine may have slept");
        machine.steps(-DAY);
        assert_eq!(
            (clock.now().millis(), clock.ahead()),
            (2 * DAY, Duration::from_millis(DAY as u64))
        );
        machine.passes(60_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 60_000, "a lease of a minute has ended");
        machine.passes(60_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 120_000);
        // A second step back, and a small one ahead, change nothing.
        machine.steps(-DAY / 2);
        machine.passes(1_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 121_000);
        machine.steps(5_000);
        assert_eq!(clock.now().millis(), 2 * DAY + 121_000);
        // The machine's has caught up: time goes by it again.
        machine.steps(3 * DAY);
        let wall = machine.wall.load(Ordering::Relaxed);
        assert_eq!((clock.now().millis(), clock.ahead()), (wall, Duration::ZERO));
        machine.passes(10);
        assert_eq!(clock.now().millis(), wall + 10);
        // Set back once more, time goes on from here, not from where it was the first time.
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
    fn a_clock_that_was_set_back_is_warned_of_once_and_once_it_has_caught_up() {
        let (machine, warnings) = (Machine::default(), Warnings::default());
        let clock = machine.clock();
        let told = || warnings.0.load(Ordering::Relaxed);
        tracing::subscriber::with_default(warnings.clone(), || {
            machine.steps(DAY);
            clock.now();
            assert_eq!(told(), 0, "ahead it follows");
            machine.steps(-DAY);
            for _ in 0..3 {
                clock.now();
                machine.passes(1_000);
            }
            assert_eq!(told(), 1);
            machine.steps(2 * DAY);
            clock.now();
            clock.now();
            assert_eq!(told(), 2);
        });
    }

    #[test]
    fn what_ntp_corrects_is_waited_for() {
        let machine = Machine::default();
        let clock = machine.clock();
        machine.steps(DAY);
        clock.now();
        machine.steps(-800);
        assert_eq!((clock.now().millis(), clock.ahead()), (DAY, Duration::ZERO));
        machine.passes(799);
        assert_eq!(clock.now().millis(), DAY);
        machine.passes(2);
        assert_eq!(clock.now().millis(), DAY + 1, "and it is the machine's time again");
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
