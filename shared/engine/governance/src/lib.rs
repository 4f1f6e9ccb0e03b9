//! Governance: what must hold before anything runs, and what follows from how it went. Data and
//! pure functions; what is asked when stands in core's `service`.
//!
//! - `operation`: what a task amounts to, and from which level an agent may do it.
//! - `planner`: what an agent would do, as gates and approvers see it. `tool_spec`: its tools.
//! - `gates`, `gate_rules`: which work waits for a person. `freeze`: times in which it waits.
//! - `policy`: rules on tools and gates; expressions come in through [`Condition`].
//! - `targets`: names that must be in the inventory. Commands: the crate `command-guard`.
//! - `environment`: which environment work is aimed at, and of which kind it is.
//! - `budget`: limits, periods, prices. `reputation`: score and level, as a fold.
//! - `shown`: what an approver sees, and the hash that binds an approval to it; `excerpt`: as
//!   much of a large object as a person can read.
//! - `records`: what the audit holds besides changes of tasks.
//!
//! How to add an operation: a variant in `operation`, its level in `Operation::needs`. How to
//! add a kind of rule: its form in the crate `policy`, its data and its evaluation here.

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
mod shown;
mod standing_record;
mod targets;
mod tool_spec;

pub use budget::{
    BudgetExceeded, BudgetLimits, BudgetMark, BudgetMove, BudgetMoveKind, BudgetState, NoPrices,
    Period, PeriodState, Prices, Quote,
};
pub use environment::{EnvironmentKind, Environments, normalized as normalized_environment};
pub use freeze::{Freeze, FreezeWhen, override_passes};
pub use gate_rules::{GateRules, PrioritiesFor};
pub use gates::{Gate, asked_gates};
pub use operation::{Level, Operation, is_low_risk};
pub use planner::{PlainPlanner, Plan, Planned, Planner};
pub use policy::{
    Ask, Condition, FixedPolicy, GateRule, Inventory, Judgement, Policies, Policy,
    PolicyUnavailable, Say, Subject, ToolRule, asked_hash,
};
pub use records::{Record, RecordKind};
pub use reputation::{ReadOnlyDay, ReputationFold, ReputationRules, Standing, StandingChange};
pub use shown::{Shown, shown};
pub use tool_spec::{BadToolSpec, OperationRule, ToolClass, ToolSpec, ToolSpecs};
