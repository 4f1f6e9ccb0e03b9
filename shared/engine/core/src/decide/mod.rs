//! The rules. `decide(state, command, facts)` is pure and synchronous: no clock, no store,
//! no randomness but what the facts bring, so every race is settled by running it again on
//! what is there now.

mod approval;
mod budget;
mod command;
mod create;
mod leave;
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
pub use command::{Claimant, Command, Ending, Facts, Rejection};
pub use leave::{Asked, Leave, Proof};
pub use new_task::{Draft, Identity, NewTask};
pub use not_built::NOT_BUILT;
pub use rules::{AlertRules, LeaseRules, RetryRules, Rules, SlaRules};
pub(crate) use task::decide_on;
pub use task::{Decided, decide, next_due};
pub use wait::{MAX_LOOK, usable_until};
