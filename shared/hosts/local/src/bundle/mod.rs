//! Wires the functions together in one process: the same handlers as on AWS, over embedded
//! adapters. It makes no decisions.
//!
//! - `feeds`: the change feed's two readers, `router` and `recorder`.
//! - `slots`: takes messages from the lanes and passes them to executors.
//! - `timers`: the sweeper, and the removal of expired items.
//! - `notices`: the notify lane and its delivery.
//! - `parked`: what waits for its replay, as health shows it.
//! - `registry`: the list of functions.

mod feeds;
pub mod notices;
mod parked;
mod position;
pub mod registry;
mod slots;
mod timers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Clock, Lanes};
use watchbill_core::reactions::Reaction;
use watchbill_core::service::{Core, Governance, Ports};
use watchbill_domain::{Agent, Event, EventType, TenantId};
use watchbill_host::clock::SystemClock;
use watchbill_host::entropy::SystemEntropy;
use watchbill_intake::Intake;
use watchbill_recorder::Recorder;
use watchbill_router::Router;
use watchbill_runtime::executor::Executor;
use watchbill_runtime::run::TaskAgent;
use watchbill_sqlite::blobs::FolderBlobs;
use watchbill_sqlite::sqlite::{ChangeFeed, Options, SqliteStore};
use watchbill_sweeper::Sweeper;

use crate::bus::{LocalBus, Subscriber};
use crate::lanes::LocalLanes;
use crate::wake::LocalWake;
use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::tasks::{PanickedTask, Tasks};

pub use feeds::LagReport;
pub use notices::Notices;
pub use parked::{Parked, ParkedReport};

#[derive(Clone)]
pub struct Settings {
    pub rules: EngineConfig,
    pub governance: Governance,
    pub reactions: Vec<Reaction>,
    /// Where notices of events are sent, if anywhere.
    pub notices: Option<Notices>,
    /// How many tasks run concurrently; one more slot is kept for P0. 0: tasks are only
    /// accepted.
    pub slots: usize,
    /// How often due items are swept.
    pub sweep_every: Duration,
    pub store: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: EngineConfig::default(),
            governance: Governance::default(),
            reactions: Vec::new(),
            notices: None,
            slots: 32,
            sweep_every: Duration::from_millis(500),
            store: Options::default(),
        }
    }
}

pub struct Bundle {
    pub core: Core,
    pub store: Arc<SqliteStore>,
    pub lanes: Arc<LocalLanes>,
    lag: Arc<feeds::Lag>,
    stop: watch::Sender<bool>,
    parked: Arc<Parked>,
    slots: Tasks,
    background: Tasks,
}

/// Intake as a subscriber of the bus.
struct IntakeOnBus(Intake);

#[async_trait]
impl Subscriber for IntakeOnBus {
    fn name(&self) -> &'static str {
        "intake"
    }

    fn wants(&self, event_type: &EventType) -> bool {
        self.0.wants(event_type)
    }

    async fn on_event(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        self.0.handle(tenant, event).await
    }
}

impl Bundle {
    /// Opens the store in `data` and starts everything. `agents` creates the agents of this
    /// process over their core.
    pub async fn start(
        data: &Path,
        settings: Settings,
        agents: impl FnOnce(&Core) -> Vec<Arc<dyn TaskAgent>>,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let folder = data.to_owned();
        let options = settings.store.clone();
        let store = tokio::task::spawn_blocking(move || SqliteStore::open(&folder, options))
            .await
            .context("opening the store")??;
        let store = Arc::new(store);
        // After the store: its lock ensures that no other process uses the folder.
        let blobs = FolderBlobs::open(data).context("opening the blobs")?;
        let ports = Ports {
            store: store.clone(),
            blobs: Arc::new(blobs.clone()),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            wake: Arc::new(LocalWake::new()),
        };
        let rules = Arc::new(settings.rules);
        // Twice the longest run, so that no message comes back while its run is still going.
        let visibility = rules.lease.run * 2 + rules.lease.margin;
        let core = Core::new(ports, rules, store.epoch())
            .planned_by(Arc::new(watchbill_catalog::planner()))
            .governed_by(settings.governance);
        let lanes = LocalLanes::new(clock.clone(), visibility);
        let (stop, stopped) = watch::channel(false);
        let background = Tasks::default();
        let mut bundle = Self {
            lag: Arc::default(),
            parked: Arc::default(),
            core: core.clone(),
            store,
            lanes,
            stop,
            slots: Tasks::sharing(background.broken()),
            background,
        };
        bundle.start_feeds(settings.reactions, settings.notices, &stopped).await?;
        bundle.start_slots(settings.slots, agents(&core));
        bundle.start_timers(settings.sweep_every, blobs, &stopped);
        Ok(bundle)
    }

    async fn start_feeds(
        &mut self,
        reactions: Vec<Reaction>,
        notices: Option<Notices>,
        stopped: &watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let lanes: Arc<dyn Lanes> = self.lanes.clone();
        let router = Router::new(lanes.clone(), self.core.clock().clone());
        // The router needs no checkpoint: tasks that were open before are enqueued by `refill`.
        let feed = ChangeFeed::open(self.store.clone(), self.store.last_seq());
        let watch = self.watch(stopped);
        self.background.spawn("the router", feeds::route(router, feed, watch));
        let refill = watchbill_router::refill(self.core.clone(), lanes);
        self.background.spawn("enqueuing the tasks of the last run", async move {
            if let Err(error) = refill.await {
                tracing::error!("tasks of the last run can't be enqueued yet: {error}");
            }
        });
        let intake: Arc<dyn Subscriber> =
            Arc::new(IntakeOnBus(Intake::new(self.core.clone(), reactions)));
        let mut subscribers = vec![intake];
        if let Some(notices) = notices {
            let (lane, delivering) = notices::open(notices, self.core.clone(), stopped.clone());
            subscribers.push(Arc::new(lane));
            self.background.spawn("the notifier", delivering);
        }
        let bus = Arc::new(LocalBus::new(subscribers));
        let recorder = Recorder::new(self.core.clone(), bus);
        let from = position::load(&self.store).await.context("reading the feed's position")?;
        let feed = ChangeFeed::open(self.store.clone(), from);
        let checkpoint = position::FeedCheckpoint::new(self.core.clone(), self.store.clone());
        let watch = self.watch(stopped);
        let recording = feeds::record(recorder, feed, checkpoint, watch);
        self.background.spawn_on_thread("the recorder", recording);
        Ok(())
    }

    fn watch(&self, stopped: &watch::Receiver<bool>) -> feeds::ReaderContext {
        feeds::ReaderContext {
            clock: self.core.clock().clone(),
            lag: self.lag.clone(),
            stopped: stopped.clone(),
        }
    }

    fn start_slots(&mut self, slots: usize, agents: Vec<Arc<dyn TaskAgent>>) {
        if slots == 0 {
            return;
        }
        let owner = format!("watchbill-{}-{}", std::process::id(), self.core.context().epoch());
        let executors: HashMap<Agent, Executor> = agents
            .into_iter()
            .map(|agent| {
                let executor = Executor::new(self.core.clone(), agent, owner.as_str());
                (executor.agent(), executor)
            })
            .collect();
        slots::start(&mut self.slots, &self.lanes, &Arc::new(executors), slots);
    }

    fn start_timers(
        &mut self,
        sweep_every: Duration,
        blobs: FolderBlobs,
        stopped: &watch::Receiver<bool>,
    ) {
        let sweeper = Sweeper::new(self.core.clone(), self.lanes.clone());
        let clock = self.core.clock().clone();
        let stopped = stopped.clone();
        let sweeping = timers::sweep(
            sweeper,
            clock.clone(),
            sweep_every,
            self.parked.clone(),
            stopped.clone(),
        );
        self.background.spawn("the sweeper", sweeping);
        let retention = timers::Retention {
            store: self.store.clone(),
            blobs,
            rules: self.core.rules().clone(),
            clock,
        };
        self.background.spawn("the retention", retention.keep(stopped));
    }

    /// Changes that router and recorder have not processed yet.
    pub fn lag(&self) -> LagReport {
        self.lag.report(self.store.last_seq())
    }

    /// For health reports after the bundle has been moved.
    pub fn lag_handle(&self) -> impl Fn() -> LagReport + Send + Sync + 'static {
        let (lag, store) = (self.lag.clone(), self.store.clone());
        move || lag.report(store.last_seq())
    }

    /// What waits for its replay, as the last sweep found it.
    pub fn parked(&self) -> Arc<Parked> {
        self.parked.clone()
    }

    /// A handle to wait for a part of the bundle that fails; the process must then end.
    pub fn broken(&self) -> PanickedTask {
        self.background.broken()
    }

    /// Stops taking work, waits until the running tasks have ended (at most `patience`), records
    /// the remaining changes, and closes the store.
    pub async fn stop(mut self, patience: Duration) {
        self.lanes.close();
        if tokio::time::timeout(patience, self.slots.join()).await.is_err() {
            tracing::warn!(
                "some runs did not end in time; they are taken up again at the next start"
            );
        }
        // The feeds continue until they have read everything that was written until now.
        let _ = self.stop.send(true);
        if tokio::time::timeout(Duration::from_secs(10), self.background.join()).await.is_err() {
            tracing::warn!("not all changes are recorded yet; the next start continues with them");
        }
        self.store.close().await;
    }
}
