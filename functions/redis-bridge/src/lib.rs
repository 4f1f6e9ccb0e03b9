//! The Redis bridge: works side by side with programs that keep their tasks in a Redis.
//!
//! - `settings`: which directions are on.
//! - `home`: our side, the bundle; `core_home`: where it is the same process.
//! - `ids`: the peer's tasks, under whichever ids they are kept here.
//! - `drive`: what drives the directions, through whatever stands in their way.
//! - `drain`: the peer's tasks into the bundle. `out`: what happens here, told there.
//! - `mine`: whose tasks are drained. `reject`: what can't be taken over.
//! - `feed`: our tasks for the peer's workers. `inward`: the peer's events. `tellers`: which of
//!   them the bundle tells itself.
//! - `domains`: a domain's list, and its entry in the registry.
//! - `tend`: looks at the connection, and at what may have been missed.
//! - `report`: what the bridge tells of itself. `aws`: the bridge as a function on Lambda.
//!
//! The peer's side is the port [`Peer`]. Nothing here keeps state of its own that counts: what
//! was taken stands in leases there, what was accepted stands in the bundle, and how far the
//! events were told stands in a cursor there that moves together with the telling.
//!
//! How to add a direction: a type that is `drive::Direction`, a setting, and its
//! line in `Bridge::directions`.

#[cfg(feature = "lambda")]
pub mod aws;

mod core_home;
mod domains;
mod drain;
mod drive;
mod feed;
mod home;
mod ids;
mod inward;
mod mine;
mod out;
mod reject;
mod report;
mod settings;
mod tellers;
mod tend;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_wire::peer::Peer;

pub use core_home::CoreHome;
pub use home::{EventOfPeer, Followed, Home, HomeError, TaskOfPeer};
pub use report::{Figures, Link, Report};
pub use settings::{BadSetting, Drain, Feed, NAMES, Settings};

use drive::{Activity, Direction, Until, drive};

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

/// The workers that a domain names in its entry of the registry.
const WORKERS: &[&str] = &["docker", "ci", "infra"];

impl Bridge {
    pub fn new(sides: Sides, settings: Settings) -> Self {
        Self { sides, settings: Arc::new(settings), figures: Arc::default() }
    }

    pub fn report(&self) -> Report {
        self.figures.report()
    }

    /// Works until it is stopped: every direction that is on, and a look at the connection.
    pub async fn run(&self, stopped: watch::Receiver<bool>) {
        self.work(Until { stopped, deadline: None }, true, Arc::default()).await;
    }

    /// Works for a bounded time, as a function on a schedule: what needs no standing
    /// connection. Nothing is listened to, and no heart beats. It ends before where nothing
    /// has moved for `quiet`.
    pub async fn round(&self, lasts: Duration, quiet: Option<Duration>) -> Report {
        let (stop, stopped) = watch::channel(false);
        let clock = self.sides.clock.clone();
        let deadline = Some(clock.monotonic() + lasts);
        let activity = Arc::<Activity>::default();
        let work = self.work(Until { stopped, deadline }, false, activity.clone());
        let watched = async {
            match quiet {
                Some(quiet) => activity.is_quiet_for(&*clock, quiet).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = watched => {
                stop.send_replace(true);
                work.await;
            }
        }
        self.report()
    }

    async fn work(&self, until: Until, standing: bool, activity: Arc<Activity>) {
        let mut driven = JoinSet::new();
        for direction in self.directions(standing) {
            let (sides, figures) = (self.sides.clone(), self.figures.clone());
            driven.spawn(drive(direction, sides, figures, activity.clone(), until.clone()));
        }
        while let Some(ended) = driven.join_next().await {
            // Steps may break off; where a direction does, the bridge is not whole any more,
            // and whoever runs it has to know.
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn directions(&self, standing: bool) -> Vec<Box<dyn Direction>> {
        let (sides, figures) = (self.sides.clone(), self.figures.clone());
        let settings = self.settings.clone();
        let wakes = inward::Wakes::default();
        let feeder = feed::Feeder::new(sides.clone(), figures.clone(), settings.clone());
        let mut all: Vec<Box<dyn Direction>> =
            vec![Box::new(tend::Tend::new(sides.clone(), figures.clone(), settings.clone()))];
        let mine = mine::Mine::new(sides.home.clone(), settings.drain.clone());
        if settings.drain.is_some() {
            let (wake, mine) = (wakes.drain.clone(), mine.clone());
            all.push(Box::new(drain::Drain::new(sides.clone(), figures.clone(), wake, mine)));
        }
        if !settings.feed.is_empty() {
            all.push(Box::new(feed::Feed::new(feeder.clone(), wakes.feed.clone())));
        }
        if out::Out::is_wanted(&settings) {
            let (sides, figures, settings) = (sides.clone(), figures.clone(), settings.clone());
            let fed = wakes.feed.clone();
            all.push(Box::new(out::Out::new(sides, figures, settings, feeder, fed, standing)));
        }
        if !standing {
            return all;
        }
        for domain in &settings.domains {
            let (sides, wake) = (sides.clone(), wakes.domains.clone());
            let heart = domains::Heart::new(sides.clone(), domain, WORKERS);
            all.push(Box::new(heart));
            let name = domain.clone();
            all.push(Box::new(domains::Domain::new(sides, figures.clone(), wake, name)));
        }
        if inward::In::is_wanted(&settings) {
            all.push(Box::new(inward::In::new(sides, figures, settings, mine, wakes)));
        }
        all
    }
}
