//! Looks at what is due: SLA marks, approvals nobody decided on, pointers nobody claimed,
//! leases of workers that went silent, resumes whose message was lost. Besides, it records that
//! another policy holds and wakes what the former one held up, offers anew what waited behind
//! a backlog that is over, and seals the heads of the ledgers each day.
//!
//! It reads each item by key, decides and commits conditionally, so that two sweepers, or a
//! sweeper and an executor, may meet without harm. An item that fails is pushed forward, so
//! that it can't fill a page; so is one over which a look breaks off. Some items are looked at
//! side by side, within the time that the call has; the shards that had no turn are the next
//! sweep's first.
//!
//! What is parked is not replayed here: the recorder is asked to, by the change that the question
//! makes.

mod alerts;
mod recall;
mod turn;
mod wake;
mod watch;

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use watchbill_alerts::{AlertRecord, StoredAlerts};
use watchbill_core::decide::{Command, next_due};
use watchbill_core::ports::{DueKey, Expect, Item, Lanes, NewItem, Write};
use watchbill_core::repo::{Entity as _, ParkedTenant, decode};
use watchbill_core::service::{CommandError, Core, ParkedSummary, ServiceError, TransactError};
use watchbill_domain::{Approval, Status, Task, Timestamp};

use recall::{Backlogs, Recall};
use turn::{Turn, Within};
use watch::Watch;

/// Items of one shard that are read at once.
const PAGE: usize = 100;
/// Shards that are swept side by side, and items of each: behind a network a look is mostly
/// waiting.
const SHARDS_AT_ONCE: usize = 4;
const LOOKS_AT_ONCE: usize = 8;
/// How far an item that can't be dealt with is pushed forward.
const PUSH: Duration = Duration::from_secs(300);

pub struct Sweeper {
    core: Core,
    lanes: Arc<dyn Lanes>,
    watch: Watch,
    recall: Recall,
    turn: Turn,
    /// What was parked when it could be counted last.
    parked: Mutex<ParkedSummary>,
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub looked_at: usize,
    pub changed: usize,
    pub failed: usize,
    /// How long the task that waits longest for its first claim has waited, of those that
    /// were looked at.
    pub oldest: Duration,
    /// What waits for its replay, as it was counted last.
    pub parked: ParkedSummary,
}

impl Swept {
    fn add(&mut self, other: &Self) {
        self.looked_at += other.looked_at;
        self.changed += other.changed;
        self.failed += other.failed;
        self.oldest = self.oldest.max(other.oldest);
    }
}

/// One sweep while it goes on.
struct Sweep {
    now: Timestamp,
    backlogs: Backlogs,
    within: Within,
    /// Items that may still be looked at.
    left: AtomicUsize,
}

impl Sweep {
    /// Whether one more may be looked at.
    fn takes_one(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        !self.within.is_over()
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    fn is_over(&self) -> bool {
        self.within.is_over() || self.left.load(Ordering::Relaxed) == 0
    }
}

/// What a look at a due item came to.
enum Looked {
    Changed,
    /// Nothing was to be done yet; it is due later now.
    Postponed,
    Nothing,
}

impl Sweeper {
    pub fn new(core: Core, lanes: Arc<dyn Lanes>) -> Self {
        let (watch, recall, parked) = (Watch::default(), Recall::default(), Mutex::default());
        Self { core, lanes, watch, recall, turn: Turn::default(), parked }
    }

    /// Sweeps all shards until nothing is due any more, or `at_most` items were looked at.
    pub async fn sweep(&self, at_most: usize) -> Result<Swept, ServiceError> {
        self.sweep_within(at_most, Duration::MAX).await
    }

    /// The same within a time. What it does not get to comes with the next sweep, which begins
    /// with the shards that had no turn.
    pub async fn sweep_within(
        &self,
        at_most: usize,
        time: Duration,
    ) -> Result<Swept, ServiceError> {
        // What is looked at beside what is due has a share of the time of its own, however much
        // is due.
        let clock = self.core.clock();
        let (due, recall) = (Within::new(clock, time, 70), Within::new(clock, time, 80));
        let watch = Within::new(clock, time, 95);
        let sweep = Sweep {
            now: clock.now(),
            backlogs: Backlogs::new(self.lanes.clone()),
            within: due,
            left: AtomicUsize::new(at_most),
        };
        // A shard that can't be read keeps nothing else from its look.
        let (mut swept, failed) = match self.shards(&sweep).await {
            Ok(swept) => (swept, None),
            Err(error) => (Swept::default(), Some(error)),
        };
        match self.recall.look(&self.core, &sweep.backlogs, &recall).await {
            Ok(recalled) => swept.changed += recalled,
            Err(error) => {
                swept.failed += 1;
                tracing::error!("what waited behind a backlog is not offered yet: {error}");
            }
        }
        let looks = AssertUnwindSafe(self.watch.look(&self.core, &watch)).catch_unwind().await;
        swept.failed += looks.unwrap_or_else(|_| {
            tracing::error!("what is looked at now and then broke off");
            1
        });
        match self.core.parking().summary().await {
            Ok(parked) => *self.parked() = parked,
            Err(error) => {
                tracing::error!("what is parked can't be counted: {error}");
                swept.failed += 1;
            }
        }
        swept.parked = *self.parked();
        failed.map_or(Ok(swept), Err)
    }

    /// All shards, some side by side. A store that fails ends the look at them.
    async fn shards(&self, sweep: &Sweep) -> Result<Swept, ServiceError> {
        let order = self.turn.order(sweep.now);
        let mut begun = 0;
        let (mut swept, mut failed) = (Swept::default(), None);
        let shards: Vec<_> = order.iter().map(|shard| self.shard(*shard, sweep)).collect();
        let mut running = stream::iter(shards).buffered(SHARDS_AT_ONCE);
        while let Some(of) = running.next().await {
            match of {
                Ok(ControlFlow::Continue(of)) => {
                    begun += 1;
                    swept.add(&of);
                }
                Ok(ControlFlow::Break(())) => {}
                Err(error) => {
                    // The next sweep begins behind it, or it would keep the others from theirs.
                    begun += 1;
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(running);
        self.turn.ended(&order, begun);
        failed.map_or(Ok(swept), Err)
    }

    /// Breaks where it was not begun.
    async fn shard(
        &self,
        shard: u8,
        sweep: &Sweep,
    ) -> Result<ControlFlow<(), Swept>, ServiceError> {
        if sweep.is_over() {
            return Ok(ControlFlow::Break(()));
        }
        let mut swept = Swept::default();
        let mut cursor = None;
        loop {
            let page = self.core.store().due(shard, sweep.now, PAGE, cursor).await?;
            let looks: Vec<_> =
                page.entries.into_iter().map(|due| self.look_at(due, sweep)).collect();
            let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
            while let Some(looked) = looks.next().await {
                swept.add(&looked?);
            }
            cursor = page.next;
            if cursor.is_none() || sweep.is_over() {
                return Ok(ControlFlow::Continue(swept));
            }
        }
    }

    fn parked(&self) -> MutexGuard<'_, ParkedSummary> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_at(&self, due: DueKey, sweep: &Sweep) -> Result<Swept, ServiceError> {
        let mut swept = Swept::default();
        if !sweep.takes_one() {
            return Ok(swept);
        }
        swept.looked_at = 1;
        let read = self.core.store().get(&due.key).await;
        let Some(read) = self.core.context().past_unreadable(read)? else {
            // It stays due: what can't be read can't be written back either.
            swept.failed = 1;
            self.core.parking().ask_past_unreadable(&due.key).await?;
            return Ok(swept);
        };
        let Some(item) = read else { return Ok(swept) };
        if item.due.is_none_or(|at| at > sweep.now) {
            // The index was behind; someone has looked at it since.
            return Ok(swept);
        }
        let looking = async {
            match &*item.kind {
                Task::KIND => self.task(&item, &sweep.backlogs, &mut swept).await,
                Approval::KIND => self.approval(&item).await,
                AlertRecord::KIND => self.alert(&item).await,
                ParkedTenant::KIND => {
                    self.core.parking().ask(&item).await.map(|()| Looked::Postponed)
                }
                // Of a newer build, which looks at it; or its arm here was forgotten.
                kind => {
                    tracing::warn!(key = %item.key, "nobody here looks at a due item of kind '{kind}'");
                    Ok(Looked::Nothing)
                }
            }
        };
        let done = AssertUnwindSafe(looking).catch_unwind().await.unwrap_or_else(|_| {
            Err(ServiceError::Down { reason: "the look broke off".to_owned() })
        });
        match done {
            Ok(Looked::Changed) => swept.changed += 1,
            Ok(Looked::Postponed) => {}
            Ok(Looked::Nothing) => self.push(&item, sweep.now.plus(PUSH)).await?,
            Err(error) => {
                swept.failed += 1;
                tracing::error!(key = %item.key, "due item {} can't be dealt with: {error}", item.key);
                self.push(&item, sweep.now.plus(PUSH)).await?;
            }
        }
        Ok(swept)
    }

    async fn task(
        &self,
        item: &Item,
        backlogs: &Backlogs,
        swept: &mut Swept,
    ) -> Result<Looked, ServiceError> {
        let stored = decode::<Task>(item)?;
        let id = stored.value.id.clone();
        let now = self.core.clock().now();
        if stored.value.status == Status::Assigned && !stored.value.external {
            let since = stored.value.log.last().map_or(stored.value.created_at, |entry| entry.at);
            swept.oldest = swept.oldest.max(now.since(since));
        }
        if next_due(&stored.value, now).is_some_and(|due| due > now) {
            return match self.core.tasks().command_on(stored, &Command::Postpone).await {
                // Rejected: someone has changed it meanwhile, and its due time with it.
                Ok(_) | Err(CommandError::Rejected { .. }) => Ok(Looked::Postponed),
                Err(error) => Err(error.into_service(&id)),
            };
        }
        let lane = (stored.value.agent, stored.value.lane());
        let lane_busy = backlogs.is_busy(lane).await;
        if lane_busy && stored.value.status == Status::Assigned && !stored.value.external {
            self.recall.note(lane);
        }
        match self.core.tasks().command_on(stored, &Command::Tick { lane_busy }).await {
            Ok(_) => Ok(Looked::Changed),
            Err(CommandError::Rejected { .. }) => Ok(Looked::Nothing),
            Err(error) => Err(error.into_service(&id)),
        }
    }

    async fn approval(&self, item: &Item) -> Result<Looked, ServiceError> {
        let approval = decode::<Approval>(item)?.value;
        let expired =
            self.core.approvals().escalate_or_expire(&approval.tenant, &approval.id).await?;
        Ok(if expired { Looked::Changed } else { Looked::Nothing })
    }

    async fn alert(&self, item: &Item) -> Result<Looked, ServiceError> {
        let ended = StoredAlerts::new(self.core.clone()).end_if_untouched(item).await?;
        Ok(if ended { Looked::Changed } else { Looked::Postponed })
    }

    /// Writes the item back as it is, due later. If someone changes it meanwhile, they know
    /// better.
    async fn push(&self, item: &Item, due: Timestamp) -> Result<(), ServiceError> {
        let Some(current) = self.core.store().get(&item.key).await? else { return Ok(()) };
        if current.version != item.version {
            return Ok(());
        }
        let pushed = NewItem {
            key: current.key.clone(),
            kind: current.kind.to_string().into(),
            schema: current.schema,
            body: current.body.clone(),
            list: current.list.clone(),
            list2: current.list2.clone(),
            due: Some(due),
            expires: current.expires,
        };
        let expect = Expect::Version(current.version);
        let writes = vec![Write::Put { item: pushed, expect }];
        // Tried once: it stays due, so the next sweep comes to it again.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Err(TransactError::Store(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
