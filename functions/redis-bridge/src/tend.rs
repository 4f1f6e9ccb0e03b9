//! Tends the bridge: looks at the connection, and at what may have been missed. A peer that
//! fails over loses what it was last told, and a bridge that starts anew has not seen what
//! went before; so now and then what stands there is held against what stands here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::Timestamp;
use watchbill_wire::peer::{Cost, CostOf, DomainResult, Origin, PeerError, PeerTask, WriteBack};
use watchbill_wire::{PeriodView, TaskView};

use crate::Sides;
use crate::domains::domain_result;
use crate::drive::{Direction, Pace, Trouble};
use crate::ids::tasks_of_peer;
use crate::out::mirror_approval;
use crate::report::{Figures, Link};
use crate::settings::Settings;

/// Between two looks at the connection.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at all that is worked on there.
const COMPARE: Duration = Duration::from_secs(30);
/// Between two writings of the sums, and of the approvals that wait.
const SUMS: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3_600);
/// After this much of an hour its figures are its own.
const SETTLED: Duration = Duration::from_secs(5);
const APPROVALS: Duration = Duration::from_secs(60);

pub(crate) struct Tend {
    sides: Sides,
    figures: Arc<Figures>,
    settings: Arc<Settings>,
    /// Of bridges before this one on the same connection.
    moved_aside: u64,
    compared: Every,
    summed: Every,
    approvals: Every,
}

/// Something that is done now and then.
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

impl Tend {
    pub fn new(sides: Sides, figures: Arc<Figures>, settings: Arc<Settings>) -> Self {
        Self {
            moved_aside: sides.peer.moved_aside(),
            sides,
            figures,
            settings,
            compared: Every::new(COMPARE),
            summed: Every::new(SUMS),
            approvals: Every::new(APPROVALS),
        }
    }

    /// Tasks that have ended here and are still worked on there.
    async fn compare(&self) -> Result<(), Trouble> {
        let mut cursor = 0;
        loop {
            let (next, ids) = self.sides.peer.worked_on(cursor).await?;
            let tasks = tasks_of_peer(&*self.sides.home, &ids).await?;
            let of_queue = |task: &TaskView| self.sides.peer.origin(task) == Some(Origin::Queue);
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

    async fn write_again(&self, ended: &[TaskView]) -> Result<(), Trouble> {
        if ended.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = ended.iter().map(|task| task.peer_id().to_owned()).collect();
        let there = self.sides.peer.read(&names).await?;
        let at = self.sides.clock.now();
        let writes: Vec<_> = ended
            .iter()
            .zip(&there)
            .filter_map(|(task, there)| match there {
                PeerTask::Found { data, .. } => Some(WriteBack { task, over: Some(data), at }),
                PeerTask::Missing => Some(WriteBack { task, over: None, at }),
                PeerTask::Unreadable { .. } => None,
            })
            .collect();
        self.figures.count(&self.sides.peer.write(&writes).await?);
        Ok(self.sides.peer.forget(&names).await?)
    }

    async fn compare_domains(&self) -> Result<(), Trouble> {
        for domain in &self.settings.domains {
            let open = self.sides.peer.open(domain).await?;
            let tasks = tasks_of_peer(&*self.sides.home, &open).await?;
            for task in tasks.into_iter().flatten() {
                let result = domain_result(&self.sides, &task).await?;
                if DomainResult::is_over(task.status) {
                    self.sides.peer.write_result(domain, &result).await?;
                }
            }
        }
        Ok(())
    }

    async fn sum(&self) -> Result<(), Trouble> {
        let budget = self.sides.home.budget().await?;
        // `2026-01-31T23:59`: the day, and the hour of it.
        let last =
            |period: &PeriodView| Timestamp::from_millis(period.resets_at.millis() - 1).to_string();
        let (day, hour) = (last(&budget.day), last(&budget.hour));
        let begun = budget.hour.resets_at.millis() - HOUR.as_millis() as i64;
        // What was read while the hour changed may be of the one before.
        if self.sides.clock.now().millis() < begun + SETTLED.as_millis() as i64 {
            return Ok(());
        }
        let sums = [
            (CostOf::Day(day[..10].to_owned()), &budget.day),
            (CostOf::Hour(format!("{}-{}", &hour[..10], &hour[11..13])), &budget.hour),
        ];
        for (sum, period) in sums {
            let (tokens, usd) = (period.used.tokens, period.used.usd);
            let so_far = Cost { tokens, usd, requests: None };
            self.sides.peer.add_cost(&sum, self.settings.tenant.as_str(), so_far).await?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), Trouble> {
        if let Err(error) = self.sides.peer.ping().await {
            // Who is away is told by whoever finds it; who refuses, by the trouble it is.
            if !matches!(error, PeerError::Away(_)) {
                self.figures.set_link(Link::Unreachable(error.to_string()));
            }
            return Err(error.into());
        }
        if self.figures.set_link(Link::Connected) {
            tracing::info!("redis: connected");
        }
        if self.settings.drain.is_some() || !self.settings.feed.is_empty() {
            self.figures.depth.store(self.sides.peer.depth().await?, Ordering::Relaxed);
            let aside = self.sides.peer.moved_aside().saturating_sub(self.moved_aside);
            self.figures.moved_aside.store(aside, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[async_trait]
impl Direction for Tend {
    fn name(&self) -> &'static str {
        "connection"
    }

    async fn step(&mut self) -> Result<Pace, Trouble> {
        self.look().await?;
        let now = self.sides.clock.monotonic();
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
            for approval in self.sides.home.pending_approvals().await? {
                mirror_approval(&self.sides, &approval.approval_id).await?;
            }
            self.approvals.done_at = Some(now);
        }
        Ok(Pace::Wait(LOOK))
    }
}
