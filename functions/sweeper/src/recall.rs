//! Tracks lanes with a backlog, and re-enqueues their tasks once it has ended.
//!
//! While a lane has a backlog, its tasks are enqueued again at growing intervals, up to hours,
//! and these enqueues are excused: they do not count as unclaimed. After the backlog, a task
//! whose lane message was lost must not wait that long: tasks with excused enqueues are found
//! among the due items, page by page, and enqueued. A new process does not know of the backlog;
//! the task's regular check then finds it, at most [`MAX_CHECK_INTERVAL`] after the previous
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::{StreamExt as _, stream};
use watchbill_core::decide::{Command, MAX_CHECK_INTERVAL};
use watchbill_core::ports::{DUE_SHARDS, Item, Lanes};
use watchbill_core::repo::{Entity as _, RoutePeek, decode};
use watchbill_core::service::{CommandError, Core, ServiceError};
use watchbill_domain::{Agent, Priority, Status, Task, Timestamp};

use crate::CONCURRENT_CHECKS;
use crate::turn::Deadline;

/// Items read at once, and pages read per sweep; the next sweep continues the walk.
const PAGE_SIZE: usize = 100;
const MAX_PAGES: usize = 20;
/// Minimum time between the starts of two walks: a lane that empties repeatedly must not cause a
/// full read each time.
const WALK_INTERVAL: Duration = Duration::from_secs(15 * 60);

pub type Lane = (Agent, Priority);

/// Queries each lane once per sweep: over SQS that is a call.
pub struct Backlogs {
    lanes: Arc<dyn Lanes>,
    known: Mutex<BTreeMap<Lane, PendingQuery>>,
}

/// One response, shared by everything that waits for it.
type PendingQuery = Shared<BoxFuture<'static, bool>>;

impl Backlogs {
    pub fn new(lanes: Arc<dyn Lanes>) -> Self {
        Self { lanes, known: Mutex::default() }
    }

    /// Lanes that can't be queried count as busy: they are no evidence of a lost message.
    pub async fn is_busy(&self, lane: Lane) -> bool {
        let query = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(lane).or_insert_with(|| self.start_query(lane)).clone()
        };
        query.await
    }

    fn start_query(&self, lane: Lane) -> PendingQuery {
        let lanes = self.lanes.clone();
        let query = async move {
            let waiting = lanes.backlog(lane.0, lane.1).await;
            waiting.map_or(true, |waiting| waiting > 0)
        };
        query.boxed().shared()
    }
}

/// The lanes that excused an enqueue, and the walk after their backlogs have ended.
#[derive(Default)]
pub struct LaneRecovery(Mutex<State>);

#[derive(Default)]
struct State {
    busy: BTreeSet<Lane>,
    walk: Option<RecoveryWalk>,
    /// When the last walk began, on the monotonic clock.
    began: Option<Duration>,
}

#[derive(Clone)]
struct RecoveryWalk {
    lanes: BTreeSet<Lane>,
    until: Timestamp,
    shard: u8,
    cursor: Option<String>,
}

impl LaneRecovery {
    /// Notes that an enqueue in this lane was excused.
    pub fn note(&self, lane: Lane) {
        self.state().busy.insert(lane);
    }

    /// Continues a walk, or begins one if a backlog has ended, as long as there is time. Returns
    /// the number of enqueued tasks.
    pub async fn look(
        &self,
        core: &Core,
        backlogs: &Backlogs,
        within: &Deadline,
    ) -> Result<usize, ServiceError> {
        if self.state().walk.is_none() {
            self.begin(core, backlogs).await;
        }
        let mut recalled = 0;
        for _ in 0..MAX_PAGES {
            let Some(walk) = self.state().walk.clone() else { break };
            if within.is_over() {
                break;
            }
            let page =
                core.store().due(walk.shard, walk.until, PAGE_SIZE, walk.cursor.clone()).await?;
            let keys: Vec<_> = page.entries.into_iter().map(|due| due.key).collect();
            let items: Vec<Item> =
                core.context().get_readable(&keys).await?.into_iter().flatten().collect();
            let offers: Vec<_> =
                items.iter().map(|item| recall_or_log(core, item, &walk.lanes)).collect();
            let mut offers = stream::iter(offers).buffer_unordered(CONCURRENT_CHECKS);
            while let Some(offered) = offers.next().await {
                recalled += usize::from(offered);
            }
            drop(offers);
            self.state().walk = walk.after(page.next);
        }
        Ok(recalled)
    }

    async fn begin(&self, core: &Core, backlogs: &Backlogs) {
        let now = core.clock().monotonic();
        let busy = {
            let state = self.state();
            let early = state.began.is_some_and(|at| now.saturating_sub(at) < WALK_INTERVAL);
            if early { BTreeSet::new() } else { state.busy.clone() }
        };
        let mut idle = BTreeSet::new();
        for lane in busy {
            if !backlogs.is_busy(lane).await {
                idle.insert(lane);
            }
        }
        if idle.is_empty() {
            return;
        }
        let until = core.clock().now().plus(MAX_CHECK_INTERVAL);
        let mut state = self.state();
        state.busy.retain(|lane| !idle.contains(lane));
        state.walk = Some(RecoveryWalk { lanes: idle, until, shard: 0, cursor: None });
        state.began = Some(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecoveryWalk {
    /// The position after a completed page; `None` at the end.
    fn after(self, cursor: Option<String>) -> Option<Self> {
        let shard = self.shard + u8::from(cursor.is_none());
        (shard < DUE_SHARDS).then_some(Self { shard, cursor, ..self })
    }
}

/// A failed task must not block the others: its regular check still follows.
async fn recall_or_log(core: &Core, item: &Item, lanes: &BTreeSet<Lane>) -> bool {
    recall(core, item, lanes).await.unwrap_or_else(|error| {
        tracing::warn!(key = %item.key, %error, "a task can't be enqueued after a backlog");
        false
    })
}

/// Enqueues a task whose enqueues these lanes excused. The sweep reports unreadable items.
async fn recall(core: &Core, item: &Item, lanes: &BTreeSet<Lane>) -> Result<bool, ServiceError> {
    if *item.kind != *Task::KIND {
        return Ok(false);
    }
    let Ok(task) = RoutePeek::of(item) else { return Ok(false) };
    let excused = task.status == Status::Assigned && task.excused > 0;
    if !excused || !lanes.contains(&(task.agent, task.lane())) {
        return Ok(false);
    }
    let stored = decode::<Task>(item)?;
    match core.tasks().command_on(stored, &Command::Recall).await {
        Ok(_) => Ok(true),
        Err(CommandError::Rejected { .. }) => Ok(false),
        Err(CommandError::Service(error)) => Err(error),
    }
}
