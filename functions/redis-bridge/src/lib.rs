//! The Redis bridge: connects Watchbill with programs that keep their tasks in a Redis.
//!
//! - `settings`: which directions are on.
//! - `backend`: the port to our side; `core_backend`: its implementation over the core.
//! - `ids`: finds legacy tasks under the ids they have here.
//! - `run_loop`: runs the directions, with retry and backoff.
//! - `import_tasks`: tasks from the legacy queue. `mine`: which of them are ours. `reject`:
//!   those that can't be imported.
//! - `export_tasks`: tasks for the legacy workers.
//! - `import_events`: events of the legacy programs. `event_owners`: which side publishes an
//!   event.
//! - `export_events`: events and task states for the legacy programs.
//! - `domains`: imports a domain's list and keeps its registry entry.
//! - `reconciler`: checks the connection and repairs missed updates.
//! - `report`: status and metrics. `aws`: the bridge as a Lambda function.
//!
//! The legacy side is the port [`LegacyQueue`]. The bridge has no durable state of its own: taken tasks
//! have leases in Redis, accepted tasks are in our store, and a cursor in Redis moves in the
//! same step as the publishing.
//!
//! To add a direction, add a type that implements `run_loop::Direction`, a setting, and its line
//! in `Bridge::directions`.

#[cfg(feature = "lambda")]
pub mod aws;

mod backend;
mod core_backend;
mod domains;
mod event_owners;
mod export_events;
mod export_tasks;
mod ids;
mod import_events;
mod import_tasks;
mod mine;
mod reconciler;
mod reject;
mod report;
mod run_loop;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_wire::legacy::LegacyQueue;

pub use backend::{Backend, BackendError, EventsAfter, LegacyEventRequest, LegacyTaskRequest};
pub use core_backend::CoreBackend;
pub use report::{Link, Metrics, Report};
pub use settings::{BadSetting, Drain, ExportSettings, NAMES, Settings};

use run_loop::{Activity, Direction, Shutdown, run_loop};

/// The ports that the bridge works with.
#[derive(Clone)]
pub struct BridgeContext {
    pub backend: Arc<dyn Backend>,
    pub legacy: Arc<dyn LegacyQueue>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// The machine's name, under which domains register.
    pub host: String,
}

/// The bridge between Watchbill and a legacy queue. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    context: BridgeContext,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

/// The workers that a domain lists in its registry entry.
const WORKERS: &[&str] = &["docker", "ci", "infra"];

impl Bridge {
    pub fn new(context: BridgeContext, settings: Settings) -> Self {
        Self { context, settings: Arc::new(settings), metrics: Arc::default() }
    }

    pub fn report(&self) -> Report {
        self.metrics.report()
    }

    /// Runs every enabled direction and the connection check until it is stopped.
    pub async fn run(&self, stopped: watch::Receiver<bool>) {
        self.work(Shutdown { stopped, deadline: None }, true, Arc::default()).await;
    }

    /// Runs for a bounded time, as a scheduled function: without listening to channels and
    /// without heartbeats. Returns early once nothing has moved for `quiet`.
    pub async fn round(&self, lasts: Duration, quiet: Option<Duration>) -> Report {
        let (stop, stopped) = watch::channel(false);
        let clock = self.context.clock.clone();
        let deadline = Some(clock.monotonic() + lasts);
        let activity = Arc::<Activity>::default();
        let work = self.work(Shutdown { stopped, deadline }, false, activity.clone());
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

    async fn work(&self, until: Shutdown, standing: bool, activity: Arc<Activity>) {
        let mut driven = JoinSet::new();
        for direction in self.directions(standing) {
            let (context, metrics) = (self.context.clone(), self.metrics.clone());
            driven.spawn(run_loop(direction, context, metrics, activity.clone(), until.clone()));
        }
        while let Some(ended) = driven.join_next().await {
            // A step may panic safely. If a direction panics, the bridge is incomplete and its
            // caller must know.
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn directions(&self, standing: bool) -> Vec<Box<dyn Direction>> {
        let (context, metrics) = (self.context.clone(), self.metrics.clone());
        let settings = self.settings.clone();
        let wakes = import_events::Wakes::default();
        let feeder =
            export_tasks::TaskExporter::new(context.clone(), metrics.clone(), settings.clone());
        let mut all: Vec<Box<dyn Direction>> = vec![Box::new(reconciler::Reconciler::new(
            context.clone(),
            metrics.clone(),
            settings.clone(),
        ))];
        let mine = mine::ImportFilter::new(context.backend.clone(), settings.drain.clone());
        if settings.drain.is_some() {
            let (wake, mine) = (wakes.drain.clone(), mine.clone());
            all.push(Box::new(import_tasks::TaskImport::new(
                context.clone(),
                metrics.clone(),
                wake,
                mine,
            )));
        }
        if !settings.feed.is_empty() {
            all.push(Box::new(export_tasks::TaskExport::new(feeder.clone(), wakes.feed.clone())));
        }
        if export_events::EventExport::is_wanted(&settings) {
            let (context, metrics, settings) = (context.clone(), metrics.clone(), settings.clone());
            let fed = wakes.feed.clone();
            all.push(Box::new(export_events::EventExport::new(
                context, metrics, settings, feeder, fed, standing,
            )));
        }
        if !standing {
            return all;
        }
        for domain in &settings.domains {
            let (context, wake) = (context.clone(), wakes.domains.clone());
            let heart = domains::Heartbeat::new(context.clone(), domain, WORKERS);
            all.push(Box::new(heart));
            let name = domain.clone();
            all.push(Box::new(domains::Domain::new(context, metrics.clone(), wake, name)));
        }
        if import_events::EventImport::is_wanted(&settings) {
            all.push(Box::new(import_events::EventImport::new(
                context, metrics, settings, mine, wakes,
            )));
        }
        all
    }
}
