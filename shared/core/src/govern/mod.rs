//! Governance: what must hold before anything runs, and what follows from how it went.
//!
//! - `operation`: what a task amounts to, and from which level an agent may do it.
//! - `reputation`: events, score and level, as a fold over the ledger.
//! - `budget`: amounts, periods, reservations.
//! - `environment`: which environment work is aimed at, and of which kind it is.
//! - `policy`: gates, rules on tools, inventory, freezes. Data; expressions come in through
//!   [`Condition`].
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
mod operation;
mod policy;
mod records;
mod reputation;
mod shown;
mod standing_record;
mod violations;

pub use budget::{
    Amount, BudgetExceeded, BudgetLimits, BudgetMark, BudgetMove, BudgetMoveKind, BudgetState,
    NoPrices, Period, PeriodState, Price, Prices, Quote, Reservation, Resource, Usage,
};
pub use environment::{EnvironmentKind, Environments, normalized as normalized_environment};
pub use freeze::{Freeze, FreezeWhen};
pub use operation::{Level, Operation, is_low_risk};
pub use policy::{
    Ask, Condition, FixedPolicy, GateRule, Inventory, Judgement, Policies, Policy,
    PolicyUnavailable, Say, Subject, ToolCall, ToolRule, asked_hash,
};
pub use records::{Record, RecordKind};
pub use reputation::{
    Earned, ReadOnlyDay, ReputationEvent, ReputationFold, ReputationRules, Standing, StandingChange,
};
pub use shown::{Shown, shown};
