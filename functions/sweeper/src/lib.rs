//! Processes due items: SLA deadlines, undecided approvals, unclaimed task references, expired
//! leases, and resumes whose message was lost. It also records policy changes and wakes the
//! tasks that the previous policy deferred, re-enqueues tasks after a backlog, and seals the
//! ledger heads each day.
//!
//! It reads each item by key, decides, and commits conditionally, so concurrent sweepers and
//! executors are safe. An item that fails or panics is pushed forward so that it can't fill a
//! page. Some items are processed concurrently, within the call's time; shards that got no turn
//! come first in the next sweep.
//!
//! Parked items are not replayed here: the sweeper's request is a change that the recorder
//! reads.

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
use watchbill_core::ports::{DueKey, Item, Lanes, NewItem, Precondition, Write};
use watchbill_core::repo::{Entity as _, ParkedTenant, decode};
use watchbill_core::service::{CommandError, Core, ParkedSummary, ServiceError, TransactError};
use watchbill_domain::{Approval, Status, Task, Timestamp};

use recall::{Backlogs, LaneRecovery};
use turn::{Deadline, FirstShard};
use watch::PeriodicChecks;

/// Items read at once from one shard.
const PAGE_SIZE: usize = 100;
/// Shards swept concurrently, and items of each: over a network, most of the time is waiting.
const CONCURRENT_SHARDS: usize = 4;
const CONCURRENT_CHECKS: usize = 8;
/// How far an item that can't be processed is pushed forward.
const REOFFER_DELAY: Duration = Duration::from_secs(300);

pub struct Sweeper {
    core: Core,
    lanes: Arc<dyn Lanes>,
    watch: PeriodicChecks,
    recall: LaneRecovery,
    turn: FirstShard,
    /// The parked items at the last successful count.
    parked: Mutex<ParkedSummary>,
}

/// The result of one sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub looked_at: usize,
    pub changed: usize,
    pub failed: usize,
    /// How long the oldest unclaimed task among the checked ones has waited for its first claim.
    pub oldest: Duration,
    /// The items waiting for a replay, at the last successful count.
    pub parked: ParkedSummary,
}

impl SweepReport {
    fn add(&mut self, other: &Self) {
        self.looked_at += other.looked_at;
        self.changed += other.changed;
        self.failed += other.failed;
        self.oldest = self.oldest.max(other.oldest);
    }
}

/// The state of one running sweep.
struct Sweep {
    now: Timestamp,
    backlogs: Backlogs,
    within: Deadline,
    /// How many more items may be checked.
    left: AtomicUsize,
}

impl Sweep {
    /// Reserves one item to check. Returns false if none is left.
    fn takes_one(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        !self.within.is_over()
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    fn is_over(&self) -> bool {
        self.within.is_over() || self.left.load(Ordering::Relaxed) == 0
    }
}

/// The result of checking a due item.
enum CheckResult {
    Changed,
    /// Nothing to do yet; its due time was moved.
    Postponed,
    Nothing,
}

impl Sweeper {
    pub fn new(core: Core, lanes: Arc<dyn Lanes>) -> Self {
        let (watch, recall, parked) =
            (PeriodicChecks::default(), LaneRecovery::default(), Mutex::default());
        Self { core, lanes, watch, recall, turn: FirstShard::default(), parked }
    }

    /// Sweeps all shards until nothing is due or `at_most` items have been checked.
    pub async fn sweep(&self, at_most: usize) -> Result<SweepReport, ServiceError> {
        self.sweep_within(at_most, Duration::MAX).await
    }

    /// The same within a time limit. The next sweep continues with the shards that got no turn.
    pub async fn sweep_within(
        &self,
        at_most: usize,
        time: Duration,
    ) -> Result<SweepReport, ServiceError> {
        // The other checks have their own share of the time, however much is due.
        let clock = self.core.clock();
        let (due, recall) = (Deadline::new(clock, time, 70), Deadline::new(clock, time, 80));
        let watch = Deadline::new(clock, time, 95);
        let sweep = Sweep {
            now: clock.now(),
            backlogs: Backlogs::new(self.lanes.clone()),
            within: due,
            left: AtomicUsize::new(at_most),
        };
        // An unreadable shard must not stop the other checks.
        let (mut swept, failed) = match self.shards(&sweep).await {
            Ok(swept) => (swept, None),
            Err(error) => (SweepReport::default(), Some(error)),
        };
        match self.recall.look(&self.core, &sweep.backlogs, &recall).await {
            Ok(recalled) => swept.changed += recalled,
            Err(error) => {
                swept.failed += 1;
                tracing::error!(%error, "tasks that waited behind a backlog can't be enqueued");
            }
        }
        let failed_checks =
            AssertUnwindSafe(self.watch.look(&self.core, &watch)).catch_unwind().await;
        swept.failed += failed_checks.unwrap_or_else(|_| {
            tracing::error!("the periodic checks panicked");
            1
        });
        match self.core.parking().summary().await {
            Ok(parked) => *self.parked() = parked,
            Err(error) => {
                tracing::error!(%error, "parked items can't be counted");
                swept.failed += 1;
            }
        }
        swept.parked = *self.parked();
        failed.map_or(Ok(swept), Err)
    }

    /// Sweeps all shards, some concurrently. Stops at a store failure.
    async fn shards(&self, sweep: &Sweep) -> Result<SweepReport, ServiceError> {
        let order = self.turn.order(sweep.now);
        let mut begun = 0;
        let (mut swept, mut failed) = (SweepReport::default(), None);
        let shards: Vec<_> = order.iter().map(|shard| self.shard(*shard, sweep)).collect();
        let mut running = stream::iter(shards).buffered(CONCURRENT_SHARDS);
        while let Some(of) = running.next().await {
            match of {
                Ok(ControlFlow::Continue(of)) => {
                    begun += 1;
                    swept.add(&of);
                }
                Ok(ControlFlow::Break(())) => {}
                Err(error) => {
                    // The next sweep begins after this shard, so that it does not starve the
                    // others.
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

    /// Returns `Break` if the shard was not begun.
    async fn shard(
        &self,
        shard: u8,
        sweep: &Sweep,
    ) -> Result<ControlFlow<(), SweepReport>, ServiceError> {
        if sweep.is_over() {
            return Ok(ControlFlow::Break(()));
        }
        let mut swept = SweepReport::default();
        let mut cursor = None;
        loop {
            let page = self.core.store().due(shard, sweep.now, PAGE_SIZE, cursor).await?;
            let checks: Vec<_> =
                page.entries.into_iter().map(|due| self.check(due, sweep)).collect();
            let mut checks = stream::iter(checks).buffer_unordered(CONCURRENT_CHECKS);
            while let Some(checked) = checks.next().await {
                swept.add(&checked?);
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

    async fn check(&self, due: DueKey, sweep: &Sweep) -> Result<SweepReport, ServiceError> {
        let mut swept = SweepReport::default();
        if !sweep.takes_one() {
            return Ok(swept);
        }
        swept.looked_at = 1;
        let read = self.core.store().get(&due.key).await;
        let Some(read) = self.core.context().past_unreadable(read)? else {
            // It stays due: an unreadable item can't be written back either.
            swept.failed = 1;
            self.core.parking().ask_past_unreadable(&due.key).await?;
            return Ok(swept);
        };
        let Some(item) = read else { return Ok(swept) };
        if item.due.is_none_or(|at| at > sweep.now) {
            // The index was stale; another process has handled the item since.
            return Ok(swept);
        }
        let checking = async {
            match &*item.kind {
                Task::KIND => self.task(&item, &sweep.backlogs, &mut swept).await,
                Approval::KIND => self.approval(&item).await,
                AlertRecord::KIND => self.alert(&item).await,
                ParkedTenant::KIND => {
                    self.core.parking().ask(&item).await.map(|()| CheckResult::Postponed)
                }
                // Of a newer build, which looks at it; or its arm here was forgotten.
                kind => {
                    tracing::warn!(key = %item.key, kind, "a due item has an unknown kind");
                    Ok(CheckResult::Nothing)
                }
            }
        };
        let done = AssertUnwindSafe(checking).catch_unwind().await.unwrap_or_else(|_| {
            Err(ServiceError::Down { reason: "checking the item panicked".to_owned() })
        });
        match done {
            Ok(CheckResult::Changed) => swept.changed += 1,
            Ok(CheckResult::Postponed) => {}
            Ok(CheckResult::Nothing) => self.push(&item, sweep.now.plus(REOFFER_DELAY)).await?,
            Err(error) => {
                swept.failed += 1;
                tracing::error!(key = %item.key, %error, "a due item can't be processed");
                self.push(&item, sweep.now.plus(REOFFER_DELAY)).await?;
            }
        }
        Ok(swept)
    }

    async fn task(
        &self,
        item: &Item,
        backlogs: &Backlogs,
        swept: &mut SweepReport,
    ) -> Result<CheckResult, ServiceError> {
        let stored = decode::<Task>(item)?;
        let id = stored.value.id.clone();
        let now = self.core.clock().now();
        if stored.value.status == Status::Assigned && !stored.value.external {
            let since = stored.value.log.last().map_or(stored.value.created_at, |entry| entry.at);
            swept.oldest = swept.oldest.max(now.since(since));
        }
        if next_due(&stored.value, now).is_some_and(|due| due > now) {
            return match self.core.tasks().command_on(stored, &Command::Postpone).await {
                // Rejected: another process changed the task meanwhile, and its due time with
                // it.
                Ok(_) | Err(CommandError::Rejected { .. }) => Ok(CheckResult::Postponed),
                Err(error) => Err(error.into_service(&id)),
            };
        }
        let lane = (stored.value.agent, stored.value.lane());
        let lane_busy = backlogs.is_busy(lane).await;
        if lane_busy && stored.value.status == Status::Assigned && !stored.value.external {
            self.recall.note(lane);
        }
        match self.core.tasks().command_on(stored, &Command::Tick { lane_busy }).await {
            Ok(_) => Ok(CheckResult::Changed),
            Err(CommandError::Rejected { .. }) => Ok(CheckResult::Nothing),
            Err(error) => Err(error.into_service(&id)),
        }
    }

    async fn approval(&self, item: &Item) -> Result<CheckResult, ServiceError> {
        let approval = decode::<Approval>(item)?.value;
        let expired =
            self.core.approvals().escalate_or_expire(&approval.tenant, &approval.id).await?;
        Ok(if expired { CheckResult::Changed } else { CheckResult::Nothing })
    }

    async fn alert(&self, item: &Item) -> Result<CheckResult, ServiceError> {
        let ended = StoredAlerts::new(self.core.clone()).end_if_untouched(item).await?;
        Ok(if ended { CheckResult::Changed } else { CheckResult::Postponed })
    }

    /// Writes the item back unchanged with a later due time. Does nothing if it has changed
    /// meanwhile.
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
        let expect = Precondition::Version(current.version);
        let writes = vec![Write::Put { item: pushed, expect }];
        // Tried once: on failure it stays due, and the next sweep retries it.
        match self.core.context().transact_within(writes, Duration::ZERO).await {
            Err(TransactError::Store(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
