//! `policy.yaml`: what an installation allows its agents to do.
//!
//! - `form`: the exact form of the file; unknown keys are refused.
//! - `read`: from the form to [`Policy`], with the line of every fault.
//! - `cache`: a policy whose text is stored elsewhere and may change.
//! - `condition`: CEL expressions, compiled once.
//!
//! To add a kind of rule: its data and evaluation in `watchbill_governance`, its form in
//! `form`, its conversion in `read`, its description in `policy.yaml` and `docs/policy.md`.

mod cache;
mod condition;
mod form;
mod read;

pub use cache::{PolicyText, TextPolicies};
pub use condition::CelCondition;
pub use read::{PolicyFileError, read_policy};
use watchbill_governance::{FixedPolicy, Policy};

/// The commented policy that comes with Watchbill. It describes what applies without a file.
pub const SHIPPED: &str = include_str!("../policy.yaml");

/// The policy if no text is given. `gates_off`: without the standing gates.
pub fn built_in(gates_off: bool) -> FixedPolicy {
    let policy = if gates_off { Policy::without_gates() } else { Policy::default() };
    FixedPolicy(policy.into())
}

/// The shipped policy, parsed.
pub fn shipped_policy() -> Policy {
    read_policy(SHIPPED).expect("a test reads the shipped policy")
}
