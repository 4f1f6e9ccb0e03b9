//! Views of agents' reputation and of budgets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watchbill_core::service::{ReputationLine, ReputationPage};
use watchbill_domain::{Agent, Amount, TaskId, TenantId, Timestamp, derived_uuid};
use watchbill_governance::{
    AgentReputation, BudgetLimits, BudgetState, Operation, PeriodState, ReputationRules,
};

use crate::{rfc3339, schemas};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// An agent of this installation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Agent")]
pub struct AgentView {
    /// The name used in `assigned_to`.
    pub agent: String,
    /// The agent's id in this tenant; it never changes.
    #[serde(default)]
    pub agent_id: String,
    /// The name used in governance: `ops_agent` and so on.
    pub name: String,
    /// Whether this installation runs the agent itself.
    pub built: bool,
    /// `running`; `paused`: tasks are only accepted; `external`: tasks are left to external
    /// workers; `not_built`: not part of this build, and external workers may claim its tasks.
    pub status: String,
    /// Tasks by status.
    pub tasks: BTreeMap<String, u64>,
    /// Reputation points, exact to a thousandth.
    pub score: f64,
    /// Trust level: `sandbox_only`, `staging_access`, `prod_low_risk` or `prod_full_access`.
    pub level: String,
    /// The next higher trust level; null at the highest.
    pub next_level: Option<String>,
    /// Points missing to the next trust level; null at the highest. 0: the next success raises it.
    pub points_to_next: Option<f64>,
    /// Operations it may perform without approval, unless the policy says otherwise.
    pub allowed_operations: Vec<String>,
    /// Number of reputation events so far.
    pub reputation_events: u64,
    /// When the agent was last active: its last reputation event or, if that was read and is
    /// later, its last start of a task.
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub last_heartbeat: Option<Timestamp>,
}

/// An agent's id in a tenant, derived from both, so that it needs no register.
pub fn agent_id(tenant: &TenantId, agent: Agent) -> String {
    derived_uuid(&["agent", tenant.as_str(), agent.long_name()]).to_string()
}

impl AgentView {
    pub fn new(
        tenant: &TenantId,
        agent: Agent,
        built: bool,
        status: String,
        tasks: BTreeMap<String, u64>,
        standing: &AgentReputation,
        rules: &ReputationRules,
    ) -> Self {
        let next = rules.next(standing);
        let operations = standing.level.operations().map(Operation::as_str);
        Self {
            agent: agent.as_str().to_owned(),
            agent_id: agent_id(tenant, agent),
            name: agent.long_name().to_owned(),
            built,
            status,
            tasks,
            score: standing.score(),
            level: standing.level.as_str().to_owned(),
            next_level: next.map(|(level, _)| level.as_str().to_owned()),
            points_to_next: next.map(|(_, points)| points),
            allowed_operations: operations.map(str::to_owned).collect(),
            reputation_events: standing.events,
            last_heartbeat: standing.last,
        }
    }
}

/// An external worker's own reputation. No authorization depends on it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Worker")]
pub struct WorkerView {
    /// The name in the leases it holds: `worker:` and its key's name.
    pub worker: String,
    pub score: f64,
    pub reputation_events: u64,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub last_event_at: Option<Timestamp>,
}

impl WorkerView {
    pub fn new(worker: String, standing: &AgentReputation) -> Self {
        Self {
            worker,
            score: standing.score(),
            reputation_events: standing.events,
            last_event_at: standing.last,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentList {
    pub success: bool,
    pub count: usize,
    pub agents: Vec<AgentView>,
    /// External workers. Tasks that they finish count for them and not for an agent.
    #[serde(default)]
    pub workers: Vec<WorkerView>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentAnswer {
    pub success: bool,
    pub agent: AgentView,
}

/// An event that changed an agent's reputation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ReputationEvent")]
pub struct ReputationView {
    pub event: String,
    /// The score change in points at that time.
    pub delta: i16,
    pub reason: Option<String>,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    pub trace_id: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub at: Timestamp,
}

impl From<ReputationLine> for ReputationView {
    fn from(line: ReputationLine) -> Self {
        Self {
            event: line.event.as_str().to_owned(),
            delta: line.delta,
            reason: line.reason,
            task_id: line.task,
            trace_id: line.trace_id,
            at: line.at,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReputationList {
    pub success: bool,
    pub agent: String,
    pub count: usize,
    pub events: Vec<ReputationView>,
    pub next_cursor: Option<String>,
    /// Number of unreadable items skipped while reading this page (see the server's log).
    /// Omitted if 0.
    #[serde(default, skip_serializing_if = "crate::answers::is_zero")]
    pub unreadable: usize,
}

impl ReputationList {
    pub fn new(agent: Agent, page: ReputationPage) -> Self {
        let events: Vec<_> = page.events.into_iter().map(ReputationView::from).collect();
        Self {
            success: true,
            agent: agent.as_str().to_owned(),
            count: events.len(),
            events,
            next_cursor: page.next_cursor,
            unreadable: page.unreadable,
        }
    }
}

/// Money and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Amount")]
pub struct AmountView {
    /// US dollars, exact to a millionth.
    pub usd: f64,
    pub tokens: u64,
}

impl From<Amount> for AmountView {
    fn from(amount: Amount) -> Self {
        Self { usd: amount.micro_usd as f64 / 1e6, tokens: amount.tokens }
    }
}

/// The current state of a budget period: a day or an hour, UTC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BudgetPeriod")]
pub struct PeriodView {
    pub used: AmountView,
    /// Reserved for model calls in progress.
    pub reserved: AmountView,
    pub limit: AmountView,
    /// The used and reserved share of the limit, of money or of tokens, whichever is greater.
    pub percent: u64,
    /// `ok`, from 80 % on `warning`, from 95 % on `critical`.
    pub status: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub resets_at: Timestamp,
}

impl PeriodView {
    fn new(state: &PeriodState, now: Timestamp, millis: i64) -> Self {
        Self {
            used: state.used.into(),
            reserved: state.reserved.into(),
            limit: state.limit.into(),
            percent: state.percent(),
            status: state.mark().as_str().to_owned(),
            resets_at: Timestamp::from_millis((now.millis().div_euclid(millis) + 1) * millis),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskBudget {
    /// The most that one task may spend.
    pub limit: AmountView,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Budget")]
pub struct BudgetView {
    pub success: bool,
    pub day: PeriodView,
    pub hour: PeriodView,
    pub task: TaskBudget,
}

impl BudgetView {
    pub fn new(state: &BudgetState, limits: &BudgetLimits, now: Timestamp) -> Self {
        Self {
            success: true,
            day: PeriodView::new(&state.day, now, DAY),
            hour: PeriodView::new(&state.hour, now, HOUR),
            task: TaskBudget { limit: limits.task.into() },
        }
    }
}
