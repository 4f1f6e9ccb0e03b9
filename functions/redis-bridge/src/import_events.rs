//! Listens to the legacy channels: imports events where that is enabled, and wakes the other
//! directions.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_domain::EventId;
use watchbill_wire::legacy::{ChannelMessage, LegacyEvent, LegacyListener, Listening};

use crate::BridgeContext;
use crate::backend::{BackendError, LegacyEventRequest};
use crate::event_owners::{EventOwner, EventOwners};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::mine::ImportFilter;
use crate::report::Metrics;
use crate::run_loop::{Direction, NextStep, SyncError};
use crate::settings::Settings;

/// How long to listen before checking for shutdown.
const LISTEN: Duration = Duration::from_millis(500);
/// Ids remembered to drop duplicates: an event is published on its own channel and on the shared
/// one.
const CACHE_SIZE: usize = 10_000;

/// The directions that the channels wake.
#[derive(Clone, Default)]
pub(crate) struct Wakes {
    pub drain: Arc<Notify>,
    pub feed: Arc<Notify>,
    pub domains: Arc<Notify>,
}

pub(crate) struct EventImport {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    wakes: Wakes,
    listener: Option<Box<dyn LegacyListener>>,
    seen: RecentIds,
    owners: EventOwners,
    /// The event received last, whose owner is not known yet.
    held: Option<LegacyEvent>,
    /// Events to import, in this order.
    ready: VecDeque<LegacyEvent>,
}

impl EventImport {
    pub fn new(
        context: BridgeContext,
        metrics: Arc<Metrics>,
        settings: Arc<Settings>,
        mine: ImportFilter,
        wakes: Wakes,
    ) -> Self {
        Self {
            owners: EventOwners::new(context.clone(), mine),
            context,
            metrics,
            settings,
            wakes,
            listener: None,
            seen: RecentIds::default(),
            held: None,
            ready: VecDeque::new(),
        }
    }

    /// Whether any setting needs the channels.
    pub fn is_wanted(settings: &Settings) -> bool {
        settings.events_in
            || settings.drain.is_some()
            || !settings.feed.is_empty()
            || !settings.domains.is_empty()
    }

    fn listening(&self) -> Listening {
        let settings = &self.settings;
        Listening {
            types: settings.drain.is_some() || !settings.feed.is_empty(),
            events: settings.events_in,
            domains: settings.domains.iter().cloned().collect(),
        }
    }

    fn handle(&mut self, message: ChannelMessage) {
        let (channel, event_type, event) = match message {
            ChannelMessage::Notice => return self.wakes.domains.notify_one(),
            ChannelMessage::Event { channel, event_type, event } => (channel, event_type, event),
        };
        match event_type.as_str() {
            "task.created" | "task.assigned" => self.wakes.drain.notify_one(),
            other if other.starts_with("task.") => self.wakes.feed.notify_one(),
            _ => {}
        }
        match event {
            Ok(Some(event)) if self.seen.is_new(&event.id) => self.held = Some(event),
            Ok(_) => {}
            Err(reason) => self.refuse(&channel, &reason),
        }
    }

    fn refuse(&self, what: &str, reason: &str) {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(what, reason, "a message is not imported as an event");
    }

    /// Imports the received event, drops it because our side publishes it, or waits until that
    /// is known.
    async fn sort_out(&mut self) -> Result<(), SyncError> {
        self.ready.extend(self.owners.decided().await?);
        let Some(held) = &self.held else { return Ok(()) };
        let owner = self.owners.of(held).await?;
        let Some(held) = self.held.take() else { return Ok(()) };
        match owner {
            EventOwner::Bundle => {}
            EventOwner::Legacy => self.ready.push_back(held),
            EventOwner::Open => self.owners.wait(held),
        }
        Ok(())
    }

    async fn publish_ready(&mut self) -> Result<(), SyncError> {
        while let Some(event) = self.ready.front().cloned() {
            let LegacyEvent { id, mut event, peer_task, hops } = event;
            if let Some(name) = peer_task.filter(|name| is_ambiguous(name)) {
                let known = tasks_of_peer(&*self.context.backend, &[name]).await?.pop().flatten();
                event.task_id = known.map(|task| task.task_id).or(event.task_id);
            }
            let event_type = event.event_type.to_string();
            match self.context.backend.publish(LegacyEventRequest { id, event, hops }).await {
                Ok(()) => {
                    self.metrics.events_in.fetch_add(1, Ordering::Relaxed);
                }
                Err(error @ BackendError::Retry { .. }) => return Err(error.into()),
                Err(error) => self.refuse(&event_type, &error.to_string()),
            }
            self.ready.pop_front();
        }
        Ok(())
    }
}

#[async_trait]
impl Direction for EventImport {
    fn name(&self) -> &'static str {
        "in"
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        self.sort_out().await?;
        self.publish_ready().await?;
        let mut listener = match self.listener.take() {
            Some(listener) => listener,
            None => self.context.legacy.listen(&self.listening()).await?,
        };
        let message = tokio::select! {
            message = listener.next() => Some(message?),
            // So that a shutdown is noticed.
            () = self.context.clock.sleep(LISTEN) => None,
        };
        self.listener = Some(listener);
        if let Some(message) = message {
            self.handle(message);
        }
        Ok(NextStep::On)
    }
}

/// The newest ids seen.
#[derive(Default)]
struct RecentIds {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl RecentIds {
    fn is_new(&mut self, id: &EventId) -> bool {
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id.clone());
        if self.order.len() > CACHE_SIZE {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.ids.remove(&oldest));
        }
        true
    }
}
