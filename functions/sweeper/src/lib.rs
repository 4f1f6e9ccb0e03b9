//! Looks at what is due: SLA marks, approvals nobody decided on, pointers nobody claimed,
//! leases of workers that went silent, resumes whose message was lost. Besides, it records that
//! another policy holds and wakes what the former one held up, offers anew what waited behind
//! a backlog that is over, and seals the heads of the ledgers each day.
//!
//! It reads each item by key, decides and commits conditionally, so that two sweepers, or a
//! sweeper and an executor, may meet without harm. An item that fails is pushed forward, so
//! that it can't fill a page; so is one over which a look breaks off.
//!
//! What is parked is not replayed here: the recorder is asked to, by the change that the question
//! makes.

mod alerts;
mod recall;
mod wake;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use watchbill_agent::records::{AlertRecord, StoredAlerts};
use watchbill_core::decide::{Command, next_due};
use watchbill_core::domain::{Approval, Status, Task, Timestamp};
use watchbill_core::ports::{Commit, DUE_SHARDS, DueKey, Expect, Item, Lanes, NewItem, Write};
use watchbill_core::repo::{Entity as _, ParkedTenant, decode};
use watchbill_core::service::{CommandError, Core, ParkedSummary, ServiceError};

use recall::{Backlogs, Recall};
use watch::Watch;

/// Items of one shard that are read at once.
const PAGE: usize = 100;
/// How far an item that can't be dealt with is pushed forward.
const PUSH: Duration = Duration::from_secs(300);

pub struct Sweeper {
    core: Core,
    lanes: Arc<dyn Lanes>,
    watch: Watch,
    recall: Recall,
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
        Self { core, lanes, watch, recall, parked }
    }

    /// Sweeps all shards until nothing is due any more, or `at_most` items were looked at.
    pub async fn sweep(&self, at_most: usize) -> Result<Swept, ServiceError> {
        let now = self.core.clock().now();
        let mut swept = Swept::default();
        let mut backlogs = Backlogs::new(self.lanes.clone());
        for shard in 0..DUE_SHARDS {
            let mut cursor = None;
            loop {
                let page = self.core.store().due(shard, now, PAGE, cursor).await?;
                for due in &page.entries {
                    self.look_at(due, now, &mut backlogs, &mut swept).await?;
                }
                cursor = page.next;
                if cursor.is_none() || swept.looked_at >= at_most {
                    break;
                }
            }
        }
        match self.recall.look(&self.core, &mut backlogs).await {
            Ok(recalled) => swept.changed += recalled,
            Err(error) => {
                swept.failed += 1;
                tracing::error!("what waited behind a backlog is not offered yet: {error}");
            }
        }
        let looks = AssertUnwindSafe(self.watch.look(&self.core)).catch_unwind().await;
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
        Ok(swept)
    }

    fn parked(&self) -> MutexGuard<'_, ParkedSummary> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_at(
        &self,
        due: &DueKey,
        now: Timestamp,
        backlogs: &mut Backlogs,
        swept: &mut Swept,
    ) -> Result<(), ServiceError> {
        swept.looked_at += 1;
        let read = self.core.store().get(&due.key).await;
        let Some(read) = self.core.past_unreadable(read)? else {
            // It stays due: what can't be read can't be written back either.
            swept.failed += 1;
            return self.core.parking().ask_past_unreadable(&due.key).await;
        };
        let Some(item) = read else { return Ok(()) };
        if item.due.is_none_or(|at| at > now) {
            // The index was behind; someone has looked at it since.
            return Ok(());
        }
        let looking = async {
            match &*item.kind {
                Task::KIND => self.task(&item, backlogs, swept).await,
                Approval::KIND => self.approval(&item).await,
                AlertRecord::KIND => self.alert(&item).await,
                ParkedTenant::KIND => {
                    self.core.parking().ask(&item).await.map(|()| Looked::Postponed)
                }
                _ => Ok(Looked::Nothing),
            }
        };
        let done = AssertUnwindSafe(looking).catch_unwind().await.unwrap_or_else(|_| {
            Err(ServiceError::Down { reason: "the look broke off".to_owned() })
        });
        match done {
            Ok(Looked::Changed) => swept.changed += 1,
            Ok(Looked::Postponed) => {}
            Ok(Looked::Nothing) => self.push(&item, now.plus(PUSH)).await?,
            Err(error) => {
                swept.failed += 1;
                tracing::error!(key = %item.key, "due item {} can't be dealt with: {error}", item.key);
                self.push(&item, now.plus(PUSH)).await?;
            }
        }
        Ok(())
    }

    async fn task(
        &self,
        item: &Item,
        backlogs: &mut Backlogs,
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
            return match self.core.command_on(stored, &Command::Postpone).await {
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
        match self.core.command_on(stored, &Command::Tick { lane_busy }).await {
            Ok(_) => Ok(Looked::Changed),
            Err(CommandError::Rejected { .. }) => Ok(Looked::Nothing),
            Err(error) => Err(error.into_service(&id)),
        }
    }

    async fn approval(&self, item: &Item) -> Result<Looked, ServiceError> {
        let approval = decode::<Approval>(item)?.value;
        let expired = self.core.approval_due(&approval.tenant, &approval.id).await?;
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
        let id = self.core.entropy().write_id();
        match self.core.store().commit(Commit { id, writes }).await {
            Err(watchbill_core::ports::CommitError::Store(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
