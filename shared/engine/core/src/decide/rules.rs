//! The configuration of the decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use watchbill_domain::{Agent, Priority, Sla, TaskType, Timestamp};
use watchbill_governance::ReputationRules;

/// All configuration of the decisions, as data, with the contract's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Overrides of the routing by task type.
    pub routes: BTreeMap<TaskType, Agent>,
    /// Agents whose tasks external workers do.
    pub external: BTreeSet<Agent>,
    /// Task types that external workers do, whichever agent they are routed to.
    pub external_types: BTreeSet<TaskType>,
    /// Agents whose work is not part of this build, see [`Agent::not_built`].
    pub not_built: BTreeSet<Agent>,
    pub retry: RetryRules,
    pub lease: LeaseRules,
    pub sla: SlaRules,
    /// An open approval expires after this.
    pub decide_within: Duration,
    /// How long a given approval may be used.
    pub use_within: Duration,
    /// A wait for a freeze or behind a backlog extends that, to at most this long after the
    /// approval.
    pub use_at_most: Duration,
    /// Whether requesters may approve their own tasks.
    pub approve_own: bool,
    /// Whether agents may decide on approvals too, of tasks that others submitted.
    pub agents_approve: bool,
    /// The task reference is enqueued again after this long without a claim; exponential
    /// backoff follows.
    pub offer_every: Duration,
    /// How long finished tasks are kept.
    pub keep_tasks: Duration,
    /// How long closed approvals are kept: at least 30 days.
    pub keep_approvals: Duration,
    pub reputation: ReputationRules,
    pub alerts: AlertRules,
}

/// How long alerts are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRules {
    /// How long a resolved alert is kept.
    pub keep_resolved: Duration,
    /// An open alert that is neither raised again nor acknowledged for this long ends.
    pub end_untouched: Duration,
}

impl Default for AlertRules {
    fn default() -> Self {
        Self { keep_resolved: 90 * DAY, end_untouched: 30 * DAY }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RetryRules {
    /// Upper bound of the first retry's wait; doubles with each retry, full jitter.
    pub base: Duration,
    pub cap: Duration,
    pub max_retries: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRules {
    /// How long one run may take.
    pub run: Duration,
    /// How much longer than the run its lease lasts: clocks of two machines may differ.
    pub margin: Duration,
    /// How long an external worker holds a task without renewing its lease.
    pub outside: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SlaRules {
    pub targets: BTreeMap<Priority, Duration>,
    /// The percentage of the time to the deadline after which to warn.
    pub threshold: u8,
    /// Whether a violation moves the task to the next higher lane.
    pub lift: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            routes: BTreeMap::new(),
            external: BTreeSet::new(),
            external_types: BTreeSet::new(),
            not_built: BTreeSet::new(),
            retry: RetryRules {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(300),
                max_retries: 3,
            },
            lease: LeaseRules {
                run: Duration::from_secs(60),
                margin: Duration::from_secs(5),
                outside: Duration::from_secs(15 * 60),
            },
            sla: SlaRules {
                targets: Priority::ALL.iter().map(|p| (*p, Sla::default_target(*p))).collect(),
                threshold: 80,
                lift: false,
            },
            decide_within: DAY,
            use_within: Duration::from_secs(60 * 60),
            use_at_most: DAY,
            approve_own: false,
            agents_approve: false,
            offer_every: Duration::from_secs(15 * 60),
            keep_tasks: 90 * DAY,
            keep_approvals: 30 * DAY,
            reputation: ReputationRules::default(),
            alerts: AlertRules::default(),
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An item written next to a header before the task's end is known is kept as if the task ended
/// this long afterwards: rewriting it at the end would double its cost.
const OPEN_MOST: Duration = DAY.saturating_mul(365);
/// Items next to a header outlive it by this much: a store that removes items one by one
/// (DynamoDB within a few days) must not leave a header without its result.
const AFTER_HEADER: Duration = DAY.saturating_mul(7);

impl EngineConfig {
    /// Until when an item next to a task's header is kept (ADR 14). `finished_at`: when the
    /// task ended, if it has.
    pub fn keep_beside(&self, finished_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
        match finished_at {
            Some(at) => at.plus(self.keep_tasks.saturating_add(AFTER_HEADER)),
            None => now.plus(self.keep_tasks.saturating_add(OPEN_MOST)),
        }
    }

    /// Whether external workers do such a task.
    pub fn is_left_outside(&self, agent: Agent, task_type: TaskType) -> bool {
        self.external.contains(&agent) || self.external_types.contains(&task_type)
    }

    /// Whether no agent of this build and no external worker does such a task.
    pub fn is_left_to_nobody(&self, agent: Agent, task_type: TaskType) -> bool {
        self.not_built.contains(&agent) && !self.is_left_outside(agent, task_type)
    }

    /// Whether that holds for all of an agent's tasks.
    pub fn leaves_to_nobody(&self, agent: Agent) -> bool {
        let outside = self.external.contains(&agent) || !self.external_types.is_empty();
        self.not_built.contains(&agent) && !outside
    }

    /// Which agent a task goes to. `has_repo`: the payload names a repository.
    pub fn route(&self, task_type: TaskType, has_repo: bool) -> Agent {
        if let Some(agent) = self.routes.get(&task_type) {
            return *agent;
        }
        Agent::of_type(task_type, has_repo)
    }
}

impl RetryRules {
    /// The wait before retry number `retry` (from 0): uniformly random up to the doubled base,
    /// so that tasks that failed together do not retry together, and never less than the
    /// provider asked for.
    pub fn wait(&self, retry: u32, asked: Option<Duration>, random: u64) -> Duration {
        let most = self.base.saturating_mul(2u32.saturating_pow(retry.min(20))).min(self.cap);
        // 53 bits of the random number as a fraction of one.
        let fraction = (random >> 11) as f64 / (1u64 << 53) as f64;
        most.mul_f64(fraction).max(asked.unwrap_or_default())
    }
}
