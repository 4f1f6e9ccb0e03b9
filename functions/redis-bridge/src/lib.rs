//! The Redis bridge: works side by side with programs that keep their tasks in a Redis.
//!
//! - `settings`: which directions are on.
//! - `home`: our side, the bundle; `core_home`: where it is the same process.
//! - `report`: what the bridge tells of itself.
//!
//! The peer's side is the port [`Peer`](watchbill_core::ports::Peer).

mod core_home;
mod home;
mod report;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use watchbill_core::ports::{Clock, Entropy, Peer};

pub use core_home::CoreHome;
pub use home::{EventOfPeer, Followed, Home, HomeError, TaskOfPeer};
pub use report::{Figures, Link, Report};
pub use settings::{BadSetting, Drain, Feed, NAMES, Settings};

/// What the bridge works with.
#[derive(Clone)]
pub struct Sides {
    pub home: Arc<dyn Home>,
    pub peer: Arc<dyn Peer>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// The machine's name: domains register under it.
    pub host: String,
}

/// The bridge between the bundle and a peer. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    sides: Sides,
    settings: Arc<Settings>,
    figures: Arc<Figures>,
}

impl Bridge {
    pub fn new(sides: Sides, settings: Settings) -> Self {
        Self { sides, settings: Arc::new(settings), figures: Arc::default() }
    }

    pub fn report(&self) -> Report {
        self.figures.report()
    }

    /// Works until it is stopped: every direction that is on, and a look at the connection.
    pub async fn run(&self, mut stopped: watch::Receiver<bool>) {
        let _ = stopped.wait_for(|stop| *stop).await;
    }

    /// Works for a bounded time, as a function on a schedule: what needs no standing
    /// connection (no listening, no heartbeats).
    pub async fn round(&self, lasts: Duration) -> Report {
        self.sides.clock.sleep(lasts).await;
        self.report()
    }
}
