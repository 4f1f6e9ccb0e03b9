//! How agents stand, and what may be spent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watchbill_core::service::{ReputationLine, ReputationPage};
use watchbill_domain::{Agent, Amount, TaskId, TenantId, Timestamp, derived_uuid};
use watchbill_governance::{
    BudgetLimits, BudgetState, Operation, PeriodState, ReputationRules, Standing,
};

use crate::{rfc3339, schemas};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// An agent of this installation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Agent")]
pub struct AgentView {
    /// As in `assigned_to`.
    pub agent: String,
    /// The agent in this tenant, the same for as long as there is one.
    #[serde(default)]
    pub agent_id: String,
    /// As in governance: `ops_agent` and so on.
    pub name: String,
    /// Whether this installation runs it itself.
    pub built: bool,
    /// `running`; `paused`: tasks are only accepted; `external`: they are left to workers outside;
    /// `not_built`: its work is not part of this build, and a worker outside may claim its tasks.
    pub status: String,
    /// Tasks by status.
    pub tasks: BTreeMap<String, u64>,
    /// Points of reputation, in thousandths exactly.
    pub score: f64,
    /// How far it is trusted: `sandbox_only`, `staging_access`, `prod_low_risk` or
    /// `prod_full_access`.
    pub level: String,
    /// The level above; none at the highest.
    pub next_level: Option<String>,
    /// Points that are missing to it. None: its next success lifts it.
    pub points_to_next: Option<f64>,
    /// What it may do without a person's leave, where policy says nothing else.
    pub allowed_operations: Vec<String>,
    /// Events of its reputation so far.
    pub reputation_events: u64,
    /// When it was last heard of: the later of its last event of reputation and, where this was
    /// looked for, its last start of a task.
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::maybe_time")]
    pub last_heartbeat: Option<Timestamp>,
}

/// An agent's id in a tenant: made of both, so that it needs no register.
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
        standing: &Standing,
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

/// An external worker's own reputation. No right depends on it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Worker")]
pub struct WorkerView {
    /// As in the leases it takes: `worker:` and its key's name.
    pub worker: String,
    pub score: f64,
    pub reputation_events: u64,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::maybe_time")]
    pub last_event_at: Option<Timestamp>,
}

impl WorkerView {
    pub fn new(worker: String, standing: &Standing) -> Self {
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
    /// What they end counts for them and not for an agent.
    #[serde(default)]
    pub workers: Vec<WorkerView>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentAnswer {
    pub success: bool,
    pub agent: AgentView,
}

/// Something that changed an agent's score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ReputationEvent")]
pub struct ReputationView {
    pub event: String,
    /// Points of score that it was worth when it happened.
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
    /// So many of the items that were looked at for this page can't be read and are left out;
    /// left out itself where it is 0. The server's log names them.
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

/// A day or an hour, UTC, as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BudgetPeriod")]
pub struct PeriodView {
    pub used: AmountView,
    /// Set aside for calls of models that are under way.
    pub reserved: AmountView,
    pub limit: AmountView,
    /// Used and reserved of the limit, of money or of tokens, whichever is the more.
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
