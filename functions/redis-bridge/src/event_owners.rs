//! Decides which side publishes a task's lifecycle events, Watchbill or the legacy programs, so
//! that none is published twice.

use std::collections::VecDeque;
use std::time::Duration;

use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::legacy::{LegacyEvent, Origin, ReadTask};

use crate::BridgeContext;
use crate::ids::tasks_of_peer;
use crate::mine::ImportFilter;
use crate::run_loop::SyncError;

/// Events that Watchbill publishes for its tasks, and the legacy programs for theirs.
const LIFECYCLE_EVENTS: &[&str] = &[
    "task.created",
    "task.assigned",
    "task.started",
    "task.completed",
    "task.failed",
    "task.cancelled",
];
/// How often to check whether an undecided task has been taken.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long an event waits for that decision.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Maximum waiting events; beyond it, the oldest are imported.
const MAX_WAITING: usize = 10_000;
/// Events checked per call.
const PAGE_SIZE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOwner {
    Bundle,
    Legacy,
    /// The side that takes the task out of the queue.
    Open,
}

pub(crate) struct EventOwners {
    context: BridgeContext,
    mine: ImportFilter,
    /// Ordered by the time of the next check.
    waiting: VecDeque<WaitingEvent>,
}

struct WaitingEvent {
    event: LegacyEvent,
    since: Duration,
    look_at: Duration,
}

impl EventOwners {
    pub fn new(context: BridgeContext, mine: ImportFilter) -> Self {
        Self { context, mine, waiting: VecDeque::new() }
    }

    /// Which side publishes an event.
    pub async fn of(&self, event: &LegacyEvent) -> Result<EventOwner, SyncError> {
        let of_a_life = LIFECYCLE_EVENTS.contains(&event.event.event_type.as_str());
        match event.peer_task.as_ref().filter(|_| of_a_life) {
            None => Ok(EventOwner::Legacy),
            Some(name) => {
                let owners = self.look(std::slice::from_ref(name)).await?;
                Ok(owners.first().copied().unwrap_or(EventOwner::Legacy))
            }
        }
    }

    /// Keeps an event until its owner is known.
    pub fn wait(&mut self, event: LegacyEvent) {
        let now = self.context.clock.monotonic();
        self.waiting.push_back(WaitingEvent { event, since: now, look_at: now + POLL_INTERVAL });
    }

    /// Checks the waiting events that are due and returns those that the legacy side owns.
    pub async fn decided(&mut self) -> Result<Vec<LegacyEvent>, SyncError> {
        let now = self.context.clock.monotonic();
        let due = self.waiting.iter().take(PAGE_SIZE).take_while(|one| one.look_at <= now).count();
        let over = self.waiting.len().saturating_sub(MAX_WAITING).min(PAGE_SIZE);
        let looked_at = due.max(over);
        let name = |one: &WaitingEvent| one.event.peer_task.clone().unwrap_or_default();
        let names: Vec<String> = self.waiting.iter().take(looked_at).map(name).collect();
        let owners = self.look(&names).await?;
        let mut decided = Vec::new();
        let looked_at: Vec<WaitingEvent> = self.waiting.drain(..looked_at).collect();
        for (at, (mut one, owner)) in looked_at.into_iter().zip(owners).enumerate() {
            let waits_on = at >= over && now.saturating_sub(one.since) < MAX_WAIT;
            match owner {
                EventOwner::Bundle => {}
                EventOwner::Open if waits_on => {
                    one.look_at = now + POLL_INTERVAL;
                    self.waiting.push_back(one);
                }
                EventOwner::Open | EventOwner::Legacy => decided.push(one.event),
            }
        }
        Ok(decided)
    }

    async fn look(&self, names: &[String]) -> Result<Vec<EventOwner>, SyncError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let theirs = self.context.legacy.read_tasks(names).await?;
        // Read after the legacy side: a task taken before that read is known here by now.
        let ours = tasks_of_peer(&*self.context.backend, names).await?;
        let mut owners = Vec::with_capacity(names.len());
        for (theirs, ours) in theirs.iter().zip(&ours) {
            owners.push(self.classify(theirs.as_ref(), ours.as_ref()).await?);
        }
        Ok(owners)
    }

    async fn classify(
        &self,
        theirs: Option<&ReadTask>,
        ours: Option<&TaskView>,
    ) -> Result<EventOwner, SyncError> {
        if ours.is_some_and(|task| self.context.legacy.origin(task) == Some(Origin::Queue)) {
            return Ok(EventOwner::Bundle);
        }
        let Some(theirs) = theirs else { return Ok(EventOwner::Legacy) };
        if theirs.fed.is_some() {
            return Ok(EventOwner::Bundle);
        }
        let waits = matches!(Status::parse(&theirs.status), Ok(Status::Pending | Status::Assigned));
        let to = theirs.to.filter(|_| waits && self.mine.takes_any());
        Ok(match to {
            Some(to) if self.mine.is_taken(&to).await? => EventOwner::Open,
            _ => EventOwner::Legacy,
        })
    }
}
