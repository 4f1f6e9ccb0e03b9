//! Feed: tasks of ours for the peer's workers, and their results home.
//!
//! The bridge is their worker here: it claims a task, with all the leave that a claim needs,
//! and hands it over under its own id. From then on the task as it stands there is watched;
//! the bridge's lease is kept up meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use watchbill_domain::{Agent, Status, TaskId, TaskType};
use watchbill_redact as redact;
use watchbill_wire::peer::{FedTask, PeerTask, WorkerWord, WriteBack};
use watchbill_wire::{EventView, PatchStatus, TaskView};

use crate::Sides;
use crate::drive::{Direction, Pace, Trouble};
use crate::home::HomeError;
use crate::report::Figures;
use crate::settings::Settings;

/// Between two looks at what was handed over; more where there is much of it.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_EACH: Duration = Duration::from_micros(200);
/// Where nothing is.
const IDLE: Duration = Duration::from_secs(5);
/// Between two looks for tasks that wait and were not told of.
const SWEEP: Duration = Duration::from_secs(30);
/// Between two words to the bundle that a task is still held: a third of the shortest lease
/// that a worker outside is usually given.
const HOLD: Duration = Duration::from_secs(5 * 60);
/// Handed over and not begun for this long: its taker died before it marked the task, or
/// every worker puts it back because its name is written otherwise.
const UNBEGUN: Duration = Duration::from_secs(60);
/// Tasks read at once.
const PAGE: usize = 512;

/// What is known of a task that stands with the peer. Times are on the monotonic clock, which
/// begins with the process.
#[derive(Clone, Debug)]
struct Handed {
    /// When its hold was last renewed, if that was us.
    held_at: Option<Duration>,
    /// How long it had stood in the queue, this time, when we came to know of it.
    age: Duration,
    known_at: Duration,
}

impl Handed {
    fn stands_for(&self, now: Duration) -> Duration {
        self.age + now.saturating_sub(self.known_at)
    }
}

/// What stands with the peer, shared by who hands over and who watches.
#[derive(Clone)]
pub(crate) struct Feeder {
    sides: Sides,
    figures: Arc<Figures>,
    settings: Arc<Settings>,
    handed: Arc<Mutex<HashMap<TaskId, Handed>>>,
    /// Claimed, and perhaps not there yet.
    on_their_way: Arc<Mutex<HashSet<TaskId>>>,
}

impl Feeder {
    pub fn new(sides: Sides, figures: Arc<Figures>, settings: Arc<Settings>) -> Self {
        let (handed, on_their_way) = (Arc::default(), Arc::default());
        Self { sides, figures, settings, handed, on_their_way }
    }

    fn handed(&self) -> MutexGuard<'_, HashMap<TaskId, Handed>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_handed(&self, id: &TaskId) -> bool {
        self.handed().contains_key(id)
    }

    /// Whether a task stands with the peer, or is about to.
    pub fn is_theirs(&self, id: &TaskId) -> bool {
        self.on_their_way().contains(id) || self.is_handed(id)
    }

    fn on_their_way(&self) -> MutexGuard<'_, HashSet<TaskId>> {
        self.on_their_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, task: &TaskView) -> bool {
        let from_there = self.sides.peer.origin(task).is_some();
        task.external && !from_there && self.settings.feed.wants(task.task_type, task.assigned_to)
    }

    /// Acts on what happened here: hands over what waits, takes back what has ended. True
    /// where there is something new to watch.
    pub async fn take(
        &self,
        events: &[EventView],
        tasks: &BTreeMap<TaskId, TaskView>,
    ) -> Result<bool, Trouble> {
        let mut news = false;
        let named: BTreeSet<&TaskId> = events.iter().filter_map(|e| e.task_id.as_ref()).collect();
        for task in named.into_iter().filter_map(|id| tasks.get(id)) {
            if task.status == Status::Assigned && self.is_wanted(task) {
                news |= self.hand_over(task).await?;
            } else if task.status.is_terminal() && self.is_handed(&task.task_id) {
                self.take_back(task).await?;
            }
        }
        Ok(news)
    }

    /// Claims a task and puts it into the peer's queue, unless it stands there already.
    async fn hand_over(&self, task: &TaskView) -> Result<bool, Trouble> {
        // Noted before the claim: as soon as that is told, it has to be known whose it is. After
        // an error nobody knows how far it came.
        self.on_their_way().insert(task.task_id.clone());
        let handed = self.claim_and_offer(task).await?;
        self.on_their_way().remove(&task.task_id);
        Ok(handed)
    }

    async fn claim_and_offer(&self, task: &TaskView) -> Result<bool, Trouble> {
        match self.hold(&task.task_id).await {
            Ok(()) => {}
            // Without leave, or another worker's by now.
            Err(HomeError::Conflict(reason) | HomeError::Refused(reason)) => {
                let id = &task.task_id;
                tracing::info!(task_id = %id, "task {id} is not handed over: {reason}");
                return Ok(false);
            }
            Err(HomeError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if self.is_handed(&task.task_id) {
            return Ok(false);
        }
        let long_name = self.settings.feed.long_names.contains(&task.assigned_to);
        for stands in self.sides.peer.offer(&[self.offer_of(task, long_name)]).await? {
            if let Err(reason) = stands {
                self.keep_here(&task.task_id, reason).await?;
                return Ok(false);
            }
        }
        self.figures.fed.fetch_add(1, Ordering::Relaxed);
        let now = self.sides.clock.monotonic();
        let handed = Handed { held_at: Some(now), age: Duration::ZERO, known_at: now };
        self.handed().insert(task.task_id.clone(), handed);
        Ok(true)
    }

    /// What stands there under its id is not ours to write over: a person must look.
    async fn keep_here(&self, id: &TaskId, reason: String) -> Result<(), Trouble> {
        tracing::warn!(task_id = %id, "task {id} is not handed over: {reason}");
        let error = Some(format!("it can't be handed to the workers in Redis: {reason}"));
        let change = PatchStatus { status: Status::Blocked, error, result: None };
        match self.sides.home.set_status(id, change).await {
            Err(error @ HomeError::Retry { .. }) => Err(error.into()),
            // It has ended meanwhile.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn hold(&self, id: &TaskId) -> Result<(), HomeError> {
        let change = PatchStatus { status: Status::InProgress, error: None, result: None };
        self.sides.home.set_status(id, change).await
    }

    /// The task as their worker expects it. Payloads are shown without secrets, as to every
    /// worker outside.
    fn offer_of(&self, task: &TaskView, long_name: bool) -> FedTask {
        let agent = task.assigned_to;
        let spelled = if long_name { agent.long_name() } else { agent.as_str() };
        let mut shown = task.clone();
        shown.status = Status::Assigned;
        redact::object(&mut shown.payload);
        FedTask { task: shown, assigned_to: spelled.to_owned() }
    }

    /// It has ended here. Where that was their worker's word, it stands there as it is.
    async fn take_back(&self, task: &TaskView) -> Result<(), Trouble> {
        let id = task.task_id.to_string();
        self.sides.peer.withdraw(std::slice::from_ref(&id)).await?;
        let there = self.sides.peer.read(std::slice::from_ref(&id)).await?;
        if let Some(PeerTask::Found { data, status, .. }) = there.first()
            && status != task.status.as_str()
        {
            let write = WriteBack { task, over: Some(data), at: self.sides.clock.now() };
            self.sides.peer.write(&[write]).await?;
        }
        self.sides.peer.forget(std::slice::from_ref(&id)).await?;
        self.handed().remove(&task.task_id);
        Ok(())
    }
}

/// Watches what was handed over.
pub(crate) struct Feed {
    feeder: Feeder,
    wake: Arc<Notify>,
    loaded: bool,
    swept_at: Option<Duration>,
}

impl Feed {
    pub fn new(feeder: Feeder, wake: Arc<Notify>) -> Self {
        Self { feeder, wake, loaded: false, swept_at: None }
    }

    fn sides(&self) -> &Sides {
        &self.feeder.sides
    }

    /// What a bridge before us handed over.
    async fn load(&mut self) -> Result<(), Trouble> {
        if self.loaded {
            return Ok(());
        }
        let now = self.sides().clock.monotonic();
        for (id, age) in self.sides().peer.offered().await? {
            let Ok(id) = TaskId::parse(&id) else { continue };
            let age = Duration::from_secs(age);
            let handed = Handed { held_at: None, age, known_at: now };
            self.feeder.handed().entry(id).or_insert(handed);
        }
        self.loaded = true;
        Ok(())
    }

    /// Tasks that wait for a worker outside and that no event told us of: from before the
    /// bridge, or held up by a freeze.
    async fn sweep(&mut self) -> Result<(), Trouble> {
        let now = self.sides().clock.monotonic();
        if self.swept_at.is_some_and(|at| now.saturating_sub(at) < SWEEP) {
            return Ok(());
        }
        for (agent, task_type) in self.fed() {
            for task in self.sides().home.assigned(agent, task_type).await? {
                if self.feeder.is_wanted(&task) {
                    self.feeder.hand_over(&task).await?;
                }
            }
        }
        self.swept_at = Some(now);
        Ok(())
    }

    /// Which tasks may wait: of whole agents, and of single types of others.
    fn fed(&self) -> BTreeSet<(Agent, Option<TaskType>)> {
        let feed = &self.feeder.settings.feed;
        let route = |task_type, repo| self.sides().home.route(task_type, repo);
        let of_type = feed.types.iter().flat_map(|task_type| {
            [false, true].map(|repo| (route(*task_type, repo), Some(*task_type)))
        });
        let others = of_type.filter(|(agent, _)| !feed.agents.contains(agent));
        feed.agents.iter().map(|agent| (*agent, None)).chain(others).collect()
    }

    async fn watch(&self) -> Result<usize, Trouble> {
        let ids: Vec<TaskId> = self.feeder.handed().keys().cloned().collect();
        for page in ids.chunks(PAGE) {
            let names: Vec<String> = page.iter().map(ToString::to_string).collect();
            let words = self.sides().peer.read_words(&names).await?;
            for (id, word) in page.iter().zip(words) {
                self.carry_home(id, word).await?;
            }
        }
        Ok(ids.len())
    }

    /// What their worker says of a task, as our own worker's word.
    async fn carry_home(&self, id: &TaskId, word: WorkerWord) -> Result<(), Trouble> {
        let (status, assigned_to, error, result) = match word {
            WorkerWord::Said { status, assigned_to, error, result } => {
                (status, assigned_to, error, result)
            }
            WorkerWord::Missing => return self.lost(id).await,
            WorkerWord::Unreadable { reason } => {
                let error = format!("what stands in Redis under its id is no task: {reason}");
                return self.end(id, Status::Blocked, Some(error), None).await;
            }
        };
        match status {
            Status::Pending | Status::Assigned => self.unbegun(id, &assigned_to).await,
            Status::InProgress => self.keep(id).await,
            Status::Completed => self.end(id, Status::Completed, None, result).await,
            over @ (Status::Failed | Status::Blocked | Status::Cancelled) => {
                self.end(id, over, error, None).await
            }
        }
    }

    async fn end(
        &self,
        id: &TaskId,
        status: Status,
        error: Option<String>,
        result: Option<Map<String, Value>>,
    ) -> Result<(), Trouble> {
        match self.sides().home.set_status(id, PatchStatus { status, error, result }).await {
            Ok(()) => {}
            Err(error @ HomeError::Retry { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(task_id = %id, "the peer's word on task {id} ({status}) came too late: {error}");
            }
        }
        let name = [id.to_string()];
        self.sides().peer.withdraw(&name).await?;
        self.sides().peer.forget(&name).await?;
        self.feeder.handed().remove(id);
        Ok(())
    }

    /// Keeps up our lease.
    async fn keep(&self, id: &TaskId) -> Result<(), Trouble> {
        let now = self.sides().clock.monotonic();
        let held_at = self.feeder.handed().get(id).and_then(|handed| handed.held_at);
        if held_at.is_some_and(|at| now.saturating_sub(at) < HOLD) {
            return Ok(());
        }
        match self.feeder.hold(id).await {
            Ok(()) => {}
            Err(error @ HomeError::Retry { .. }) => return Err(error.into()),
            // It has ended here, or is another's: the events say so too.
            Err(error) => tracing::debug!(task_id = %id, "task {id} is no longer held: {error}"),
        }
        if let Some(handed) = self.feeder.handed().get_mut(id) {
            handed.held_at = Some(now);
        }
        Ok(())
    }

    /// Nobody has begun it yet. `name`: the agent as it is written there.
    async fn unbegun(&self, id: &TaskId, name: &str) -> Result<(), Trouble> {
        self.keep(id).await?;
        let now = self.sides().clock.monotonic();
        let Some(handed) = self.feeder.handed().get(id).cloned() else { return Ok(()) };
        if handed.stands_for(now) < UNBEGUN {
            return Ok(());
        }
        // One that has ended here is taken back by whoever reads of it.
        let Some(task) = self.open_task(id).await? else { return Ok(()) };
        // Workers put back what is not for their exact name, and both spellings occur.
        let long_name = name != task.assigned_to.long_name();
        let offer = self.feeder.offer_of(&task, long_name);
        self.sides().peer.offer_again(&offer).await?;
        self.feeder.figures.fed_again.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = self.feeder.handed().get_mut(id) {
            *known = Handed { age: Duration::ZERO, known_at: now, ..handed };
        }
        Ok(())
    }

    /// Redis has lost it.
    async fn lost(&self, id: &TaskId) -> Result<(), Trouble> {
        self.feeder.figures.lost_there.fetch_add(1, Ordering::Relaxed);
        self.sides().peer.withdraw(&[id.to_string()]).await?;
        self.feeder.handed().remove(id);
        if let Some(task) = self.open_task(id).await? {
            self.feeder.hand_over(&task).await?;
        }
        Ok(())
    }

    /// The task as it stands here, if it is still to be done.
    async fn open_task(&self, id: &TaskId) -> Result<Option<TaskView>, Trouble> {
        let open = |task: &TaskView| matches!(task.status, Status::Assigned | Status::InProgress);
        let tasks = self.sides().home.tasks(std::slice::from_ref(id)).await?;
        Ok(tasks.into_iter().flatten().find(open))
    }
}

#[async_trait]
impl Direction for Feed {
    fn name(&self) -> &'static str {
        "feed"
    }

    fn woken_by(&self) -> Option<Arc<Notify>> {
        Some(self.wake.clone())
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        self.load().await?;
        self.sweep().await?;
        Ok(Pace::Wait(match self.watch().await? {
            0 => IDLE,
            handed => LOOK.max(LOOK_EACH * u32::try_from(handed).unwrap_or(u32::MAX)),
        }))
    }
}
