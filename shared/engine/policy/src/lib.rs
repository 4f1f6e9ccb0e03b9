//! `policy.yaml`: what an installation lets its agents do, as people write it.
//!
//! - `form`: the file's form, exactly; unknown keys are refused.
//! - `read`: from the form to [`Policy`], with the line of every fault.
//! - `kept`: a policy whose text stands elsewhere and may change.
//! - `condition`: expressions in CEL, compiled once.
//!
//! How to add a kind of rule: its data and its evaluation in `watchbill_governance`, its
//! form in `form`, its reading in `read`, its words in `policy.yaml` and `docs/policy.md`.

mod condition;
mod form;
mod kept;
mod read;

pub use condition::CelCondition;
pub use kept::{PolicyText, TextPolicies};
pub use read::{PolicyFileError, read_policy};
use watchbill_governance::{FixedPolicy, Policy};

/// The policy that comes with Watchbill, commented; it says what holds without a file.
pub const SHIPPED: &str = include_str!("../policy.yaml");

/// What holds where no text is given. `gates_off`: without the standing gates.
pub fn built_in(gates_off: bool) -> FixedPolicy {
    let policy = if gates_off { Policy::without_gates() } else { Policy::default() };
    FixedPolicy(policy.into())
}

/// The shipped policy as it is read.
pub fn shipped_policy() -> Policy {
    read_policy(SHIPPED).expect("a test reads the shipped policy")
}
