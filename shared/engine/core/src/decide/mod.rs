//! The rules. `decide(state, command, facts)` is pure and synchronous: it uses no clock and no
//! store, and only the randomness in the facts. A race is therefore resolved by deciding again
//! on the current state.

mod approval;
mod authorization;
mod budget;
mod command;
mod create;
mod new_task;
mod not_built;
mod rules;
mod run;
mod task;
mod tick;
mod wait;

pub use approval::{
    ApprovalCommand, ApprovalRejection, decide_approval, demands_a_person, escalates_at,
};
pub use authorization::{ApprovalRequest, Authorization, VersionedAuthorization};
pub use command::{Claimant, Command, DecisionContext, Rejection, RunResult};
pub use new_task::{Identity, NewTask, PreparedTask};
pub use not_built::NOT_BUILT;
pub use rules::{AlertRules, EngineConfig, LeaseRules, RetryRules, SlaRules};
pub(crate) use task::decide_on;
pub use task::{Decided, decide, next_due};
pub use wait::{MAX_CHECK_INTERVAL, usable_until};
