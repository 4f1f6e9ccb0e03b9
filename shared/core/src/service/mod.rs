//! Load, decide, commit, and on a conflict load again: what handlers call.

mod approvals;
mod asking;
mod audit;
mod bodies;
mod budgets;
mod core;
mod create;
mod events;
mod figures;
mod governance;
mod keys;
mod leave;
mod overrides;
mod pages;
mod parked;
mod records;
mod standing;
mod tasks;
mod timeline;
mod types;

pub use approvals::{LinkDecision, LinkUse};
pub use audit::AUDIT_KINDS;
pub use bodies::Placed;
pub use core::{CommandError, Core, Ports};
pub use events::LedgerPlace;
pub use figures::STATS_FOLD;
pub use governance::{Governance, OnFailure};
pub use leave::{Runner, UNREACHED_LOOK, Verdict};
pub use parked::{ParkedSummary, Parking, Replayed, ToPark};
pub use standing::REPUTATION_FOLD;
pub use timeline::older_log;
pub use types::*;
