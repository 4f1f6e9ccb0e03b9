//! Drain: tasks out of the peer's queue into the bundle.
//!
//! An id is looked at, taken (out of the queue, under a lease), recorded here under the same
//! id, and settled. Whoever dies in between leaves a lease that ends, and the id is taken
//! again; recorded twice it is still one task.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Notify;
use watchbill_domain::Status;
use watchbill_wire::TaskView;
use watchbill_wire::peer::{PeerTaskView, Queued, ReadTask, Unreadable, WriteBack, id_of_peer};

use crate::Sides;
use crate::drive::{Direction, Pace, Trouble};
use crate::home::{HomeError, TaskOfPeer};
use crate::ids::{is_ambiguous, tasks_of_peer};
use crate::mine::Mine;
use crate::reject::reject_task;
use crate::report::Figures;

/// Ids looked at and taken at once: as many as the peer takes in one step.
const PAGE: usize = 500;
/// Tasks recorded side by side.
const AT_ONCE: usize = 256;
/// How long a taken id may be on its way into the bundle before it is taken again.
const LEASE: Duration = Duration::from_secs(30);
/// Between two looks for ids whose lease is over.
const RETAKE_EVERY: Duration = Duration::from_secs(5);
/// How long what is said of a task that is not ours is believed: it may be given to another.
const BELIEVED: Duration = Duration::from_secs(5);
/// Others' tasks that are remembered; beyond, all are looked at anew.
const REMEMBERED: usize = 100_000;
/// How long an id may stand in the queue before what it names is written.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at a queue in which nothing happens, from the first to the most. The
/// channels wake us before.
const IDLE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

pub(crate) struct Drain {
    sides: Sides,
    figures: Arc<Figures>,
    wake: Arc<Notify>,
    mine: Mine,
    /// Tasks of others, and when they were looked at.
    others: HashMap<String, Duration>,
    /// Ids that name nothing, and when they were first seen.
    missing: HashMap<String, Duration>,
    retaken_at: Option<Duration>,
    idle: Duration,
    /// How many the queue had at the last look.
    pages: u32,
}

/// A task that may be taken.
struct Candidate {
    id: String,
    data: String,
    task: PeerTaskView,
}

enum Found {
    Ours(Box<Candidate>),
    Others,
    NotYet,
    Rejected(Unreadable),
}

impl Drain {
    pub fn new(sides: Sides, figures: Arc<Figures>, wake: Arc<Notify>, mine: Mine) -> Self {
        Self {
            sides,
            figures,
            wake,
            mine,
            others: HashMap::new(),
            missing: HashMap::new(),
            retaken_at: None,
            idle: IDLE.0,
            pages: 0,
        }
    }

    fn taker(&self) -> String {
        format!("watchbill@{}", self.sides.host)
    }

    /// The first page of the queue that holds a task of ours, and those of it.
    async fn look(&mut self) -> Result<Vec<Candidate>, Trouble> {
        let now = self.sides.clock.monotonic();
        self.others.retain(|_, seen| now.saturating_sub(*seen) < BELIEVED);
        if self.others.len() > REMEMBERED {
            self.others.clear();
        }
        let mut from = 0;
        self.pages = 0;
        loop {
            let page = self.sides.peer.peek(from, PAGE).await?;
            self.pages += 1;
            let whole = page.len() == PAGE;
            from += page.len();
            let unknown: Vec<Queued> =
                page.into_iter().filter(|queued| !self.others.contains_key(&queued.id)).collect();
            let ours = self.sort_out(unknown, now).await?;
            if !ours.is_empty() || !whole {
                return Ok(ours);
            }
        }
    }

    async fn sort_out(
        &mut self,
        unknown: Vec<Queued>,
        now: Duration,
    ) -> Result<Vec<Candidate>, Trouble> {
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = unknown.iter().map(|queued| queued.id.clone()).collect();
        let there = self.sides.peer.read_tasks(&ids).await?;
        let mut ours = Vec::new();
        for (queued, there) in unknown.into_iter().zip(there) {
            match self.judge(&queued, there, now).await? {
                Found::Ours(candidate) => ours.push((queued.score, *candidate)),
                Found::NotYet => {}
                Found::Others => {
                    self.others.insert(queued.id, now);
                }
                Found::Rejected(what) => self.reject(&queued.id, what).await?,
            }
        }
        // Of one priority the peer's queue is in the order of the ids.
        let arrival = |one: &Candidate| one.task.created_at.unwrap_or_default();
        ours.sort_by(|(a, one), (b, other)| {
            a.total_cmp(b).then_with(|| arrival(one).cmp(&arrival(other)))
        });
        Ok(ours.into_iter().map(|(_, candidate)| candidate).collect())
    }

    async fn judge(
        &mut self,
        queued: &Queued,
        there: Option<ReadTask>,
        now: Duration,
    ) -> Result<Found, HomeError> {
        let Some(there) = there else {
            let first = *self.missing.entry(queued.id.clone()).or_insert(now);
            if now.saturating_sub(first) < GRACE {
                return Ok(Found::NotYet);
            }
            self.missing.remove(&queued.id);
            let reason = "the queue names it, and nothing is kept of it".to_owned();
            return Ok(Found::Rejected(Unreadable { reason, data: None }));
        };
        self.missing.remove(&queued.id);
        // One of ours, for the peer's workers.
        if there.fed.is_some() {
            return Ok(Found::Others);
        }
        // What none of these programs can read is nobody's.
        if let Some(to) = there.to
            && !self.mine.is_taken(&to).await?
        {
            return Ok(Found::Others);
        }
        Ok(match there.task {
            Ok((task, data)) => {
                Found::Ours(Box::new(Candidate { id: queued.id.clone(), data, task }))
            }
            Err(what) => Found::Rejected(what),
        })
    }

    async fn reject(&self, id: &str, what: Unreadable) -> Result<(), Trouble> {
        reject_task(&self.sides, &self.figures, id, what).await
    }

    /// What was taken and never settled: of a bridge that died, or of one that is cut off.
    async fn retake(&mut self) -> Result<Vec<Candidate>, Trouble> {
        let now = self.sides.clock.monotonic();
        if self.retaken_at.is_some_and(|at| now.saturating_sub(at) < RETAKE_EVERY) {
            return Ok(Vec::new());
        }
        let ids = self.sides.peer.retake(&self.taker(), LEASE, PAGE).await?;
        if ids.len() < PAGE {
            self.retaken_at = Some(now);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.figures.add(&self.figures.retaken, ids.len());
        let there = self.sides.peer.read_tasks(&ids).await?;
        let mut again = Vec::new();
        for (id, there) in ids.into_iter().zip(there) {
            // It was taken once, so it is ours, whoever it is given to by now.
            let nothing = || Unreadable {
                reason: "it was taken, and nothing is kept of it".to_owned(),
                data: None,
            };
            match there.ok_or_else(nothing).and_then(|there| there.task) {
                Ok((task, data)) => again.push(Candidate { id, data, task }),
                Err(what) => self.reject(&id, what).await?,
            }
        }
        Ok(again)
    }

    /// Records what was taken, and settles what is recorded.
    async fn record(&self, taken: Vec<Candidate>) -> Result<(), Trouble> {
        let recorded: Vec<_> = stream::iter(taken)
            .map(|one| async move {
                let recorded = self.record_one(&one).await;
                (one, recorded)
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let (mut settled, mut repeats, mut later) = (Vec::new(), Vec::new(), None);
        for (one, recorded) in recorded {
            match recorded {
                Ok(view) => {
                    settled.push(one.id.clone());
                    // What became of it was told to what stood there before.
                    repeats.extend(view.filter(has_moved).map(|view| (one.data, view)));
                }
                Err(HomeError::Retry { after, reason }) => {
                    later = Some(HomeError::Retry { after, reason });
                }
                Err(error) => {
                    let (data, reason) = (Some(one.data.into()), error.to_string());
                    self.reject(&one.id, Unreadable { reason, data }).await?;
                }
            }
        }
        if !settled.is_empty() {
            self.sides.peer.settle(&settled).await?;
            self.figures.add(&self.figures.taken, settled.len());
        }
        if !repeats.is_empty() {
            let at = self.sides.clock.now();
            let writes =
                repeats.iter().map(|(data, task)| WriteBack { task, over: Some(data), at });
            let writes: Vec<_> = writes.collect();
            self.sides.peer.write(&writes).await?;
        }
        match later {
            // Their leases bring them back.
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Nothing where it had ended before it came to us: it is only taken out of the queue.
    async fn record_one(&self, one: &Candidate) -> Result<Option<TaskView>, HomeError> {
        let id = id_of_peer(&one.id).map_err(HomeError::Refused)?;
        let ended = matches!(one.task.status, Status::Completed | Status::Cancelled);
        if ended || is_ambiguous(&one.id) {
            let names = std::slice::from_ref(&one.id);
            let known = tasks_of_peer(&*self.sides.home, names).await?.pop().flatten();
            // One of a build that kept it under the peer's own id stays that task.
            if ended || known.as_ref().is_some_and(|task| task.task_id != id) {
                return Ok(known);
            }
        }
        let (task, trace_id) = (one.task.task.clone(), one.task.trace_id.clone());
        let mut tries = 0;
        loop {
            let new = TaskOfPeer { id: id.clone(), task: task.clone(), trace_id: trace_id.clone() };
            match self.sides.home.create(new).await {
                Err(HomeError::Retry { after, .. }) if tries < 4 => {
                    tries += 1;
                    self.sides.clock.sleep(after.min(Duration::from_secs(2))).await;
                }
                created => return created.map(Some),
            }
        }
    }

    /// Ids that had ended before they came here are no longer worked on.
    async fn let_go(&self, ended: &[String]) -> Result<(), Trouble> {
        if !ended.is_empty() {
            self.sides.peer.forget(ended).await?;
        }
        Ok(())
    }
}

/// Whether it stands otherwise than the peer thinks, who gave it to an agent.
fn has_moved(view: &TaskView) -> bool {
    view.version > 1 || view.status == Status::Pending
}

#[async_trait]
impl Direction for Drain {
    fn name(&self) -> &'static str {
        "drain"
    }

    fn woken_by(&self) -> Option<Arc<Notify>> {
        Some(self.wake.clone())
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        let mut taken = self.retake().await?;
        let mut ours = match self.mine.takes_any() {
            true => self.look().await?,
            false => Vec::new(),
        };
        if !ours.is_empty() {
            let ids: Vec<String> = ours.iter().map(|one| one.id.clone()).collect();
            let got = self.sides.peer.take(&ids, &self.taker(), LEASE).await?;
            let got: BTreeSet<String> = got.into_iter().collect();
            ours.retain(|one| got.contains(&one.id));
            taken.extend(ours);
        }
        if taken.is_empty() {
            let wait = self.idle;
            // A queue of others' tasks takes many looks.
            self.idle = (self.idle * 2).min(IDLE.1 * self.pages.max(1));
            return Ok(Pace::Wait(wait));
        }
        self.idle = IDLE.0;
        let ended =
            |one: &&Candidate| matches!(one.task.status, Status::Completed | Status::Cancelled);
        let ended: Vec<String> = taken.iter().filter(ended).map(|one| one.id.clone()).collect();
        self.record(taken).await?;
        self.let_go(&ended).await?;
        Ok(Pace::On)
    }
}
