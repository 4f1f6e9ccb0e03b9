//! Governance: what must hold before anything runs, and how the result affects reputation and
//! budget. Data and pure functions; core's `service` decides when each check is made.
//!
//! - `operation`: the operations of tasks, and the level that each of them needs.
//! - `planner`: the plan of an agent, as gates and approvers see it. `tool_spec`: its tools.
//! - `gates`, `gate_rules`: which work requires approval. `freeze`: times in which work is
//!   deferred.
//! - `policy`: rules on tools and gates; expressions are supplied as [`Condition`].
//! - `targets`: names that must be in the inventory. Commands: the crate `command-guard`.
//! - `environment`: which environment work is aimed at, and its kind.
//! - `budget`: limits, periods, prices. `reputation`: score and level, as a projection.
//! - `approval_document`: what an approver sees, and the hash that binds an approval to it.
//!   `excerpt`: as much of a large object as a person can read.
//! - `records`, `standing_record`: audit records other than changes of tasks.
//!
//! To add an operation: a variant in `operation`, its level in `Operation::needs`. To add a
//! kind of rule: its form in the crate `policy`, its data and its evaluation here.

mod approval_document;
mod budget;
mod environment;
mod excerpt;
mod freeze;
mod gate_rules;
mod gates;
mod operation;
mod planner;
mod policy;
mod records;
mod reputation;
mod standing_record;
mod targets;
mod tool_spec;

pub use approval_document::{ApprovalDocument, approval_document};
pub use budget::{
    BudgetExceeded, BudgetLimits, BudgetMove, BudgetMoveKind, BudgetState, BudgetThreshold,
    CallCost, NoPrices, Period, PeriodState, Prices,
};
pub use environment::{EnvironmentKind, Environments, normalized as normalized_environment};
pub use freeze::{Freeze, FreezeWhen, override_passes};
pub use gate_rules::{GateRules, PrioritiesFor};
pub use gates::{Gate, asked_gates};
pub use operation::{Level, Operation, is_low_risk};
pub use planner::{PlainPlanner, Plan, Planned, Planner};
pub use policy::{
    ApprovalRequirement, Condition, FixedPolicy, GateRule, Inventory, Policies, Policy,
    PolicyDecision, PolicyInput, PolicyUnavailable, RuleEffect, ToolRule, requirements_hash,
};
pub use records::{AuditRecord, RecordKind};
pub use reputation::{
    AgentReputation, ReadOnlyDay, ReputationChange, ReputationProjection, ReputationRules,
};
pub use tool_spec::{BadToolSpec, OperationRule, ToolClass, ToolSpec, ToolSpecs};
