//! Which lanes have a backlog, and what is done once one is over.
//!
//! While a lane has a backlog its tasks are offered again at growing distances, hours in the
//! end. Once the backlog is over, a task whose lane message was lost must not wait that long:
//! the tasks whose offers were excused are found among what is due, page by page, and offered.
//! A process that starts anew doesn't know of the backlog; then the next look finds the task,
//! [`MAX_LOOK`] after the one before at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::{StreamExt as _, stream};
use watchbill_core::decide::{Command, MAX_LOOK};
use watchbill_core::ports::{DUE_SHARDS, Item, Lanes};
use watchbill_core::repo::{Entity as _, RoutePeek, decode};
use watchbill_core::service::{CommandError, Core, ServiceError};
use watchbill_domain::{Agent, Priority, Status, Task, Timestamp};

use crate::LOOKS_AT_ONCE;
use crate::turn::Within;

/// Items read at once, and pages read in one sweep: the rest of the walk comes with the next.
const PAGE: usize = 100;
const MAX_PAGES: usize = 20;
/// Between the beginnings of two walks: a lane that empties again and again must not have
/// everything read each time.
const WALK_EVERY: Duration = Duration::from_secs(15 * 60);

pub type Lane = (Agent, Priority);

/// Asks each lane once in a sweep: behind SQS that is a call.
pub struct Backlogs {
    lanes: Arc<dyn Lanes>,
    known: Mutex<BTreeMap<Lane, Asked>>,
}

/// One answer for all who wait for it.
type Asked = Shared<BoxFuture<'static, bool>>;

impl Backlogs {
    pub fn new(lanes: Arc<dyn Lanes>) -> Self {
        Self { lanes, known: Mutex::default() }
    }

    /// Lanes that can't be asked count as busy: they are no proof of a lost message.
    pub async fn is_busy(&self, lane: Lane) -> bool {
        let asked = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(lane).or_insert_with(|| self.ask(lane)).clone()
        };
        asked.await
    }

    fn ask(&self, lane: Lane) -> Asked {
        let lanes = self.lanes.clone();
        let asking = async move {
            let waiting = lanes.backlog(lane.0, lane.1).await;
            waiting.map_or(true, |waiting| waiting > 0)
        };
        asking.boxed().shared()
    }
}

/// The lanes that excused an offer, and the walk that follows the end of their backlogs.
#[derive(Default)]
pub struct Recall(Mutex<State>);

#[derive(Default)]
struct State {
    busy: BTreeSet<Lane>,
    walk: Option<Walk>,
    /// When the last walk began, on the monotonic clock.
    began: Option<Duration>,
}

#[derive(Clone)]
struct Walk {
    lanes: BTreeSet<Lane>,
    until: Timestamp,
    shard: u8,
    cursor: Option<String>,
}

impl Recall {
    /// An offer in this lane was excused.
    pub fn note(&self, lane: Lane) {
        self.state().busy.insert(lane);
    }

    /// Goes on with a walk, or begins one where a backlog has ended, as long as there is time.
    /// Answers how many tasks were offered.
    pub async fn look(
        &self,
        core: &Core,
        backlogs: &Backlogs,
        within: &Within,
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
            let page = core.store().due(walk.shard, walk.until, PAGE, walk.cursor.clone()).await?;
            let keys: Vec<_> = page.entries.into_iter().map(|due| due.key).collect();
            let items: Vec<Item> =
                core.context().get_readable(&keys).await?.into_iter().flatten().collect();
            let offers: Vec<_> =
                items.iter().map(|item| recall_or_tell(core, item, &walk.lanes)).collect();
            let mut offers = stream::iter(offers).buffer_unordered(LOOKS_AT_ONCE);
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
            let early = state.began.is_some_and(|at| now.saturating_sub(at) < WALK_EVERY);
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
        let until = core.clock().now().plus(MAX_LOOK);
        let mut state = self.state();
        state.busy.retain(|lane| !idle.contains(lane));
        state.walk = Some(Walk { lanes: idle, until, shard: 0, cursor: None });
        state.began = Some(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    /// Where it goes on, once a page is done with.
    fn after(self, cursor: Option<String>) -> Option<Self> {
        let shard = self.shard + u8::from(cursor.is_none());
        (shard < DUE_SHARDS).then_some(Self { shard, cursor, ..self })
    }
}

/// Its own look comes all the same: the others must not wait for one that fails.
async fn recall_or_tell(core: &Core, item: &Item, lanes: &BTreeSet<Lane>) -> bool {
    recall(core, item, lanes).await.unwrap_or_else(|error| {
        tracing::warn!(key = %item.key, "{} is not offered yet: {error}", item.key);
        false
    })
}

/// Offers a task whose offers these lanes excused. What can't be read is the sweep's to report.
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
