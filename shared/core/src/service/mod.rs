//! Load, decide, commit, and on a conflict load again: what handlers call.

mod approvals;
mod bodies;
mod core;
mod create;
mod events;
mod figures;
mod keys;
mod tasks;
mod timeline;
mod types;

pub use bodies::Placed;
pub use core::{CommandError, Core, Ports};
pub use figures::STATS_FOLD;
pub use timeline::older_log;
pub use types::*;
