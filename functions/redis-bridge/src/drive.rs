//! What drives the directions: each takes its steps by itself, waits between them, and goes
//! on after whatever stood in its way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use watchbill_core::handler::panic_text;
use watchbill_core::ports::Clock;
use watchbill_wire::peer::PeerError;

use crate::Sides;
use crate::home::HomeError;
use crate::report::{Figures, Link};

/// Between two tries while the peer is away: from the first to the most, doubled each time.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// And while it refuses, until someone mends it there.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What stands in a direction's way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A fault of ours: one step must not end the direction.
    #[error("a step broke off: {0}")]
    Panicked(String),
}

/// What comes after a step.
pub(crate) enum Pace {
    /// There is more to do.
    On,
    /// Nothing for now: again after this long, or when woken.
    Wait(Duration),
}

/// One direction of the bridge.
#[async_trait]
pub(crate) trait Direction: Send {
    fn name(&self) -> &'static str;

    /// Who wakes it before its wait is over.
    fn woken_by(&self) -> Option<Arc<Notify>> {
        None
    }

    /// Does a bounded piece of work. After an error the same is done again.
    async fn step(&mut self) -> Result<Pace, Trouble>;

    /// Once, at the end.
    async fn leave(&mut self) {}
}

/// When the directions end.
#[derive(Clone)]
pub(crate) struct Until {
    pub stopped: watch::Receiver<bool>,
    /// On the monotonic clock.
    pub deadline: Option<Duration>,
}

impl Until {
    fn is_over(&self, clock: &dyn Clock) -> bool {
        *self.stopped.borrow() || self.deadline.is_some_and(|end| clock.monotonic() >= end)
    }

    /// Sleeps, unless the end or a wake-up comes first.
    async fn sleep(&mut self, clock: &dyn Clock, how_long: Duration, wake: Option<&Notify>) {
        let left = self.deadline.map(|end| end.saturating_sub(clock.monotonic()));
        let how_long = left.map_or(how_long, |left| left.min(how_long));
        let woken = async {
            match wake {
                Some(wake) => wake.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = clock.sleep(how_long) => {}
            () = woken => {}
            // An error means that nobody can stop it any more: it is over as well.
            _ = self.stopped.wait_for(|stop| *stop) => {}
        }
    }
}

/// Whether anything is going on, over all directions.
#[derive(Default)]
pub(crate) struct Activity {
    /// Directions that are in the midst of a step.
    stepping: AtomicUsize,
    /// Steps so far after which there was more to do.
    moves: AtomicUsize,
}

/// Between two looks at the activity.
const GLANCE: Duration = Duration::from_millis(100);

impl Activity {
    async fn step(&self, direction: &mut dyn Direction) -> Result<Pace, Trouble> {
        self.stepping.fetch_add(1, Ordering::Relaxed);
        let done = step(direction).await;
        if matches!(done, Ok(Pace::On)) {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
        self.stepping.fetch_sub(1, Ordering::Relaxed);
        done
    }

    /// Returns once nothing has moved for so long, and nobody is in the midst of a step: one
    /// that takes long is at work.
    pub async fn is_quiet_for(&self, clock: &dyn Clock, quiet: Duration) {
        let (mut moves, mut since) = (0, clock.monotonic());
        loop {
            clock.sleep(GLANCE.min(quiet)).await;
            let now = (self.moves.load(Ordering::Relaxed), clock.monotonic());
            if now.0 != moves {
                (moves, since) = now;
            }
            let idle = self.stepping.load(Ordering::Relaxed) == 0;
            if idle && now.1.saturating_sub(since) >= quiet {
                return;
            }
        }
    }
}

/// Takes a direction's steps until the end.
pub(crate) async fn drive(
    mut direction: Box<dyn Direction>,
    sides: Sides,
    figures: Arc<Figures>,
    activity: Arc<Activity>,
    mut until: Until,
) {
    let clock = sides.clock.clone();
    let wake = direction.woken_by();
    let mut failures = 0;
    while !until.is_over(&*clock) {
        let trouble = match activity.step(&mut *direction).await {
            Ok(pace) => {
                failures = 0;
                figures.set_trouble(direction.name(), None);
                if let Pace::Wait(how_long) = pace {
                    until.sleep(&*clock, how_long, wake.as_deref()).await;
                }
                continue;
            }
            Err(trouble) => trouble,
        };
        tell(direction.name(), &trouble, &figures);
        let (first, most) = match &trouble {
            Trouble::Peer(PeerError::Away(_)) => AWAY,
            Trouble::Home(HomeError::Retry { after, .. }) => (*after, Duration::from_secs(30)),
            Trouble::Peer(_) | Trouble::Home(_) | Trouble::Panicked(_) => REFUSED,
        };
        until.sleep(&*clock, back_off(&sides, first, most, failures), None).await;
        failures += 1;
    }
    direction.leave().await;
}

/// A step is safe to break off anywhere: so it is also by a panic.
async fn step(direction: &mut dyn Direction) -> Result<Pace, Trouble> {
    match AssertUnwindSafe(direction.step()).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(Trouble::Panicked(panic_text(&*panic).to_owned())),
    }
}

/// Says what is new in it. That the peer is away, all directions find; it is said once.
fn tell(direction: &'static str, trouble: &Trouble, figures: &Figures) {
    let text = trouble.to_string();
    let news = figures.set_trouble(direction, Some(text.clone()));
    let news = match trouble {
        Trouble::Peer(PeerError::Away(_)) => figures.set_link(Link::Unreachable(text.clone())),
        _ => news,
    };
    if news {
        tracing::warn!("redis {direction}: {text}");
    }
}

/// Doubled at each failure, and anything between half and all of it, so that what failed
/// together does not come back together.
fn back_off(sides: &Sides, first: Duration, most: Duration, failures: u32) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(failures.min(16))).min(most);
    let fraction = (sides.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    whole.mul_f64(0.5 + fraction / 2.0)
}
