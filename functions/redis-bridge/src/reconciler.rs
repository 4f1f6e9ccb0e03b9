//! Checks the connection and compares both sides at intervals: a Redis that fails over loses its
//! last writes, and a new bridge has missed earlier events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::Timestamp;
use watchbill_wire::legacy::{
    Cost, CostOf, DomainResult, LegacyError, LegacyTask, Origin, WriteBack,
};
use watchbill_wire::{PeriodView, TaskView};

use crate::BridgeContext;
use crate::domains::domain_result;
use crate::export_events::mirror_approval;
use crate::ids::tasks_of_peer;
use crate::report::{Link, Metrics};
use crate::run_loop::{Direction, NextStep, SyncError};
use crate::settings::Settings;

/// How often the connection is checked.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How often all tasks in progress in Redis are compared.
const COMPARE_INTERVAL: Duration = Duration::from_secs(30);
/// How often cost sums are written.
const SUM_INTERVAL: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3_600);
/// How long into an hour its usage may still be read from the hour before.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
const APPROVALS_INTERVAL: Duration = Duration::from_secs(60);

pub(crate) struct Reconciler {
    context: BridgeContext,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    /// What earlier bridges on the same connection moved aside.
    moved_aside: u64,
    compared: Every,
    summed: Every,
    approvals: Every,
}

/// A job that is done at an interval.
struct Every {
    each: Duration,
    done_at: Option<Duration>,
}

impl Every {
    fn new(each: Duration) -> Self {
        Self { each, done_at: None }
    }

    fn is_due(&self, now: Duration) -> bool {
        self.done_at.is_none_or(|at| now.saturating_sub(at) >= self.each)
    }
}

impl Reconciler {
    pub fn new(context: BridgeContext, metrics: Arc<Metrics>, settings: Arc<Settings>) -> Self {
        Self {
            moved_aside: context.legacy.moved_aside(),
            context,
            metrics,
            settings,
            compared: Every::new(COMPARE_INTERVAL),
            summed: Every::new(SUM_INTERVAL),
            approvals: Every::new(APPROVALS_INTERVAL),
        }
    }

    /// Writes tasks that have ended here and are still in progress in Redis.
    async fn compare(&self) -> Result<(), SyncError> {
        let mut cursor = 0;
        loop {
            let (next, ids) = self.context.legacy.worked_on(cursor).await?;
            let tasks = tasks_of_peer(&*self.context.backend, &ids).await?;
            let of_queue =
                |task: &TaskView| self.context.legacy.origin(task) == Some(Origin::Queue);
            let ended = tasks
                .into_iter()
                .flatten()
                .filter(|task| of_queue(task) && task.status.is_terminal());
            self.write_again(&ended.collect::<Vec<_>>()).await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn write_again(&self, ended: &[TaskView]) -> Result<(), SyncError> {
        if ended.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = ended.iter().map(|task| task.peer_id().to_owned()).collect();
        let entries = self.context.legacy.read(&names).await?;
        let at = self.context.clock.now();
        let writes: Vec<_> = ended
            .iter()
            .zip(&entries)
            .filter_map(|(task, entry)| match entry {
                LegacyTask::Found { data, .. } => Some(WriteBack { task, over: Some(data), at }),
                LegacyTask::Missing => Some(WriteBack { task, over: None, at }),
                LegacyTask::Unreadable { .. } => None,
            })
            .collect();
        self.metrics.count(&self.context.legacy.write(&writes).await?);
        Ok(self.context.legacy.forget(&names).await?)
    }

    async fn compare_domains(&self) -> Result<(), SyncError> {
        for domain in &self.settings.domains {
            let open = self.context.legacy.open(domain).await?;
            let tasks = tasks_of_peer(&*self.context.backend, &open).await?;
            for task in tasks.into_iter().flatten() {
                let result = domain_result(&self.context, &task).await?;
                if DomainResult::is_over(task.status) {
                    self.context.legacy.write_result(domain, &result).await?;
                }
            }
        }
        Ok(())
    }

    async fn sum(&self) -> Result<(), SyncError> {
        let budget = self.context.backend.budget().await?;
        // `2026-01-31T23:59`: gives the day and its hour.
        let last =
            |period: &PeriodView| Timestamp::from_millis(period.resets_at.millis() - 1).to_string();
        let (day, hour) = (last(&budget.day), last(&budget.hour));
        let begun = budget.hour.resets_at.millis() - HOUR.as_millis() as i64;
        // Usage read around the change of the hour may belong to the hour before.
        if self.context.clock.now().millis() < begun + SETTLED_AFTER.as_millis() as i64 {
            return Ok(());
        }
        let sums = [
            (CostOf::Day(day[..10].to_owned()), &budget.day),
            (CostOf::Hour(format!("{}-{}", &hour[..10], &hour[11..13])), &budget.hour),
        ];
        for (sum, period) in sums {
            let (tokens, usd) = (period.used.tokens, period.used.usd);
            let so_far = Cost { tokens, usd, requests: None };
            self.context.legacy.add_cost(&sum, self.settings.tenant.as_str(), so_far).await?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), SyncError> {
        if let Err(error) = self.context.legacy.ping().await {
            // `Away` is reported where it is found; other errors mark the connection as
            // unreachable here.
            if !matches!(error, LegacyError::Away(_)) {
                self.metrics.set_link(Link::Unreachable(error.to_string()));
            }
            return Err(error.into());
        }
        if self.metrics.set_link(Link::Connected) {
            tracing::info!("redis: connected");
        }
        if self.settings.drain.is_some() || !self.settings.feed.is_empty() {
            self.metrics.depth.store(self.context.legacy.depth().await?, Ordering::Relaxed);
            let aside = self.context.legacy.moved_aside().saturating_sub(self.moved_aside);
            self.metrics.moved_aside.store(aside, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[async_trait]
impl Direction for Reconciler {
    fn name(&self) -> &'static str {
        "connection"
    }

    async fn step(&mut self) -> Result<NextStep, SyncError> {
        self.look().await?;
        let now = self.context.clock.monotonic();
        if self.compared.is_due(now) {
            if self.settings.drain.is_some() {
                self.compare().await?;
            }
            self.compare_domains().await?;
            self.compared.done_at = Some(now);
        }
        if self.settings.mirror_cost && self.summed.is_due(now) {
            self.sum().await?;
            self.summed.done_at = Some(now);
        }
        if self.settings.mirror_approvals && self.approvals.is_due(now) {
            for approval in self.context.backend.pending_approvals().await? {
                mirror_approval(&self.context, &approval.approval_id).await?;
            }
            self.approvals.done_at = Some(now);
        }
        Ok(NextStep::Wait(POLL_INTERVAL))
    }
}
