//! Out: what happens here, told to the peer.
//!
//! One reader follows the recorded events. For each page it first writes how the tasks stand
//! now (over the peer's tasks, into a domain's results, into the mirror), each by its version,
//! so that a second time changes nothing. Then it publishes the page's events and moves the
//! cursor in one step on the peer's side: whoever comes after, this bridge or another, goes on
//! behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Notify;
use watchbill_domain::{ApprovalId, EventId, Status, TaskId};
use watchbill_wire::peer::{Cost, CostOf, Origin, PeerTask, ToldEvent, WriteBack};
use watchbill_wire::{EventView, TaskView};

use crate::Sides;
use crate::domains::domain_result;
use crate::drive::{Direction, Pace, Trouble};
use crate::feed::Feeder;
use crate::home::HomeError;
use crate::report::Figures;
use crate::settings::Settings;

/// Events of one page.
const PAGE: usize = 512;
/// How long one look waits for events, where someone wakes it.
const WAIT: Duration = Duration::from_millis(500);
/// Between two looks where nobody does, and each is paid for.
const PAUSE: Duration = Duration::from_secs(2);
/// Bytes that are published in one step.
const AT_ONCE: usize = 1024 * 1024;

pub(crate) struct Out {
    sides: Sides,
    figures: Arc<Figures>,
    settings: Arc<Settings>,
    feeder: Feeder,
    fed: Arc<Notify>,
    cursor: Cursor,
    /// There is a process that is woken, and not a function by its schedule.
    standing: bool,
}

/// Where reading stands: as the peer keeps it.
enum Cursor {
    Unknown,
    At(Option<EventId>),
}

impl Out {
    pub fn new(
        sides: Sides,
        figures: Arc<Figures>,
        settings: Arc<Settings>,
        feeder: Feeder,
        fed: Arc<Notify>,
        standing: bool,
    ) -> Self {
        Self { sides, figures, settings, feeder, fed, cursor: Cursor::Unknown, standing }
    }

    /// Whether there is anything to tell.
    pub fn is_wanted(settings: &Settings) -> bool {
        settings.drain.is_some()
            || settings.events_out
            || settings.mirror_approvals
            || settings.mirror_cost
            || !settings.domains.is_empty()
            || !settings.feed.is_empty()
    }

    fn cursor_name(&self) -> String {
        self.settings.tenant.to_string()
    }

    async fn cursor(&mut self) -> Result<Option<EventId>, Trouble> {
        if let Cursor::At(at) = &self.cursor {
            return Ok(at.clone());
        }
        let there = self.sides.peer.cursor(&self.cursor_name()).await?;
        let at = there.and_then(|text| EventId::parse(&text).ok());
        self.cursor = Cursor::At(at.clone());
        Ok(at)
    }

    /// False where there was nothing.
    async fn page(&mut self, at: Option<EventId>) -> Result<bool, Trouble> {
        let wait = if self.standing { WAIT } else { Duration::ZERO };
        let followed = match self.sides.home.events(at.as_ref(), PAGE, wait).await {
            Err(HomeError::NotFound(reason)) => {
                tracing::warn!(
                    "the place in the events that redis remembers is not known here: {reason}; \
                     what happens from now on is told"
                );
                self.sides.home.events(None, PAGE, wait).await?
            }
            followed => followed?,
        };
        if followed.events.is_empty() && followed.reached == at {
            return Ok(false);
        }
        let tasks = self.tasks_of(&followed.events).await?;
        self.write_tasks(&followed.events, &tasks).await?;
        self.write_domains(&tasks).await?;
        if !self.settings.feed.is_empty() && self.feeder.take(&followed.events, &tasks).await? {
            self.fed.notify_one();
        }
        if self.settings.mirror_approvals {
            self.mirror_approvals(&followed.events, &tasks).await?;
        }
        if self.settings.mirror_cost {
            self.mirror_cost(&tasks).await?;
        }
        self.publish(&followed.events, &tasks, at, followed.reached).await?;
        Ok(true)
    }

    /// The tasks that the events are about, as they stand now.
    async fn tasks_of(&self, events: &[EventView]) -> Result<BTreeMap<TaskId, TaskView>, Trouble> {
        let mut ids: Vec<TaskId> =
            events.iter().filter_map(|event| event.task_id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let tasks = self.sides.home.tasks(&ids).await?;
        Ok(tasks.into_iter().flatten().map(|task| (task.task_id.clone(), task)).collect())
    }

    /// Writes what changed over the peer's tasks.
    async fn write_tasks(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<(), Trouble> {
        let changed = |task: &&TaskView| {
            let of = |event: &&EventView| event.task_id.as_ref() == Some(&task.task_id);
            // As it was made it stands there already.
            task.version > 1 || events.iter().filter(of).any(|event| !is_creation(event))
        };
        let ours: Vec<&TaskView> =
            tasks.values().filter(|task| self.is_drained(task)).filter(changed).collect();
        if ours.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = ours.iter().map(|task| task.peer_id().to_owned()).collect();
        let there = self.sides.peer.read(&ids).await?;
        let at = self.sides.clock.now();
        let mut writes = Vec::with_capacity(ours.len());
        for (task, there) in ours.into_iter().zip(&there) {
            match there {
                PeerTask::Found { data, .. } => {
                    writes.push(WriteBack { task, over: Some(data), at })
                }
                PeerTask::Missing => writes.push(WriteBack { task, over: None, at }),
                PeerTask::Unreadable { reason, .. } => {
                    let id = &task.task_id;
                    tracing::warn!(task_id = %id, "task {id} can't be written back: {reason}");
                    self.figures.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let wrote = self.sides.peer.write(&writes).await?;
        self.figures.count(&wrote);
        Ok(())
    }

    async fn write_domains(&self, tasks: &BTreeMap<TaskId, TaskView>) -> Result<(), Trouble> {
        for task in tasks.values() {
            let Some(Origin::Domain(domain)) = self.sides.peer.origin(task) else { continue };
            if !self.settings.domains.contains(domain) {
                continue;
            }
            let result = domain_result(&self.sides, task).await?;
            let wrote = self.sides.peer.write_result(domain, &result).await?;
            self.figures.count(&[wrote]);
        }
        Ok(())
    }

    async fn mirror_approvals(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<(), Trouble> {
        let mut ids = BTreeSet::new();
        for event in events {
            let named = match event.event_type.group() {
                "approval" => event.payload.get("approval_id").and_then(Value::as_str),
                _ => None,
            };
            ids.extend(named.and_then(|named| ApprovalId::parse(named).ok()));
            // Its approval is closed with it, which no event of its own says.
            if event.event_type.as_str() == "task.cancelled" {
                let task = event.task_id.as_ref().and_then(|id| tasks.get(id));
                ids.extend(task.and_then(|task| task.approval_id.clone()));
            }
        }
        for id in ids {
            mirror_approval(&self.sides, &id).await?;
        }
        Ok(())
    }

    async fn mirror_cost(&self, tasks: &BTreeMap<TaskId, TaskView>) -> Result<(), Trouble> {
        for task in tasks.values() {
            let Some(cost) = cost_of(task) else { continue };
            let (sum, tenant) = (CostOf::Trace(task.trace_id.clone()), &self.settings.tenant);
            let part = format!("{tenant} {}", task.task_id);
            self.sides.peer.add_cost(&sum, &part, cost).await?;
        }
        Ok(())
    }

    /// The last step of a page: the events, and the cursor behind them. In several steps where
    /// they are large, because nobody else is served meanwhile.
    async fn publish(
        &mut self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
        at: Option<EventId>,
        reached: Option<EventId>,
    ) -> Result<(), Trouble> {
        let Some(reached) = reached else { return Ok(()) };
        self.cursor = Cursor::At(at);
        let theirs = self.told_by_workers(events, tasks).await?;
        let (mut told_of, mut bytes) = (Vec::new(), 0);
        for event in events {
            let task = event.task_id.as_ref().and_then(|id| tasks.get(id));
            if self.is_told(event, task) && !theirs.contains(&event.event_id) {
                bytes += weight(event);
                told_of.push(ToldEvent { event, task });
            }
            // Others' ids are no place to go on from.
            if bytes > AT_ONCE && event.event_id.millis().is_some() {
                if !self.tell(&event.event_id, &told_of).await? {
                    return Ok(());
                }
                (told_of, bytes) = (Vec::new(), 0);
            }
        }
        if self.tell(&reached, &told_of).await?
            && let Some(last) = events.last()
        {
            let lag = self.sides.clock.now().since(last.timestamp).as_millis();
            self.figures.lag_ms.store(lag as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Of these events those that the peer's worker of a fed task says itself: that it began,
    /// and how it ended by its own word.
    async fn told_by_workers(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<BTreeSet<EventId>, Trouble> {
        let mut theirs = BTreeSet::new();
        if !self.settings.events_out || self.settings.feed.is_empty() {
            return Ok(theirs);
        }
        let is_external = |id: &TaskId| tasks.get(id).is_some_and(|task| task.external);
        let mut asked: Vec<(&EventView, Told)> = Vec::new();
        for event in events {
            let Some(id) = event.task_id.as_ref().filter(|id| is_external(id)) else { continue };
            match Told::of(event.event_type.as_str()) {
                // Before its hash tells so: it may be on its way there.
                Some(Told::Begun) if self.feeder.is_theirs(id) => {
                    theirs.insert(event.event_id.clone());
                }
                Some(told) => asked.push((event, told)),
                None => {}
            }
        }
        let names = asked.iter().filter_map(|(event, _)| event.task_id.as_ref());
        let names: Vec<String> = names.map(ToString::to_string).collect();
        if names.is_empty() {
            return Ok(theirs);
        }
        for ((event, told), there) in asked.into_iter().zip(self.sides.peer.read(&names).await?) {
            if told.is_their_word(&there) {
                theirs.insert(event.event_id.clone());
            }
        }
        Ok(theirs)
    }

    /// False where another was faster: the cursor is to be read again.
    async fn tell(&mut self, to: &EventId, events: &[ToldEvent<'_>]) -> Result<bool, Trouble> {
        let name = self.cursor_name();
        let from = match &self.cursor {
            Cursor::At(at) => at.as_ref(),
            Cursor::Unknown => None,
        };
        let Some(told) = self.sides.peer.publish(&name, from, to, events).await? else {
            self.cursor = Cursor::Unknown;
            return Ok(false);
        };
        self.figures.add(&self.figures.events_out, told);
        self.cursor = Cursor::At(Some(to.clone()));
        Ok(true)
    }

    /// All events where they go out; else those of the tasks that came from there. That such
    /// a task was made, the one who put it into the queue has said.
    fn is_told(&self, event: &EventView, task: Option<&TaskView>) -> bool {
        match task.is_some_and(|task| self.is_drained(task)) {
            true => !is_creation(event),
            false => self.settings.events_out,
        }
    }

    fn is_drained(&self, task: &TaskView) -> bool {
        self.sides.peer.origin(task) == Some(Origin::Queue)
    }
}

/// What a worker of the peer says of its task.
#[derive(Clone, Copy)]
enum Told {
    Begun,
    Ended(Status),
}

impl Told {
    fn of(event_type: &str) -> Option<Self> {
        Some(match event_type {
            "task.started" => Self::Begun,
            "task.completed" => Self::Ended(Status::Completed),
            "task.failed" => Self::Ended(Status::Failed),
            "task.cancelled" => Self::Ended(Status::Cancelled),
            _ => return None,
        })
    }

    /// Whether the task stands there by its worker's word. What ended it here otherwise has
    /// been written over it by now.
    fn is_their_word(self, there: &PeerTask) -> bool {
        let PeerTask::Found { status, fed: Some(_), written, .. } = there else { return false };
        match self {
            Self::Begun => true,
            Self::Ended(end) => !written && status == end.as_str(),
        }
    }
}

/// Bytes that the peer gets of an event, about: it is published with a copy.
fn weight(event: &EventView) -> usize {
    2 * serde_json::to_vec(event).map_or(0, |json| json.len())
}

fn is_creation(event: &EventView) -> bool {
    event.event_type.as_str() == "task.created"
}

/// How an approval stands, for the peer's dashboards.
pub(crate) async fn mirror_approval(sides: &Sides, id: &ApprovalId) -> Result<(), Trouble> {
    let Some(approval) = sides.home.approval(id).await? else { return Ok(()) };
    let task = sides.home.tasks(std::slice::from_ref(&approval.task_id)).await?;
    let task = task.first().and_then(Option::as_ref);
    if !sides.peer.show_approval(&approval, task).await? {
        tracing::debug!("approval {id} is not shown in redis: one of another program has that id");
    }
    Ok(())
}

/// What the models' calls for a task have cost, if there were any.
fn cost_of(task: &TaskView) -> Option<Cost> {
    let spent = task.spent?;
    Some(Cost { tokens: spent.tokens, usd: spent.usd, requests: Some(1) })
}

#[async_trait]
impl Direction for Out {
    fn name(&self) -> &'static str {
        "out"
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        let at = self.cursor().await?;
        match self.page(at).await {
            Ok(false) if !self.standing => Ok(Pace::Wait(PAUSE)),
            Ok(_) => Ok(Pace::On),
            Err(trouble) => {
                // What of it came through, the peer knows.
                self.cursor = Cursor::Unknown;
                Err(trouble)
            }
        }
    }
}
