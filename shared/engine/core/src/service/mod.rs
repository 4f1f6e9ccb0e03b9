//! What handlers call: load, decide, commit, and on a conflict load again.
//!
//! One struct per service, each over [`Context`], which holds the ports and the one way to commit
//! ([`Context::transact`]); [`Core`] wires them.
//!
//! - [`Tasks`]: create, read, list and change tasks; run commands on them.
//! - [`Approvals`]: list them, and decide them together with their tasks.
//! - [`Authorizer`]: what governance says of a run, and of a call within it.
//! - [`Budgets`]: limits, what is used of them, prices. [`Reputation`]: scores and levels.
//! - [`Audit`]: the audit, its batches and seals, records of what is no task.
//! - [`Events`]: publish, list and follow. [`Waits`]: places of calls that wait.
//! - [`Keys`]: API keys. [`Tenants`]: which there are. [`Statistics`]: counts of open work.
//! - [`Parking`]: changes that can't be recorded now. [`Rounds`]: work over all tenants, in parts.
//!
//! How to add a method: in the service whose noun it is about, in the file of that matter. It reads
//! through `self.context`, works out its writes from what it read, and hands them to `transact`;
//! on a conflict it reads again and works them out anew.
//!
//! How to add a service: a struct over `Context` and the services that it needs, in a file of its
//! own, made in `Core::wire`, with one accessor. A capability has its own service in its own crate:
//! it takes `core.context()` and the services that it needs when it is made, and adds nothing here.

mod approvals;
mod asking;
mod audit;
mod budgets;
mod context;
mod core;
mod cursor;
mod events;
mod governance;
mod handler_error;
mod keys;
mod leave;
mod log;
mod pages;
mod parked;
mod records;
mod reputation;
mod rounds;
mod stats;
mod store_list;
mod tasks;
mod tenants;
mod types;
mod unreadable;
mod waits;
mod walk;
mod weight;

pub use crate::decide::{Identity, NewTask};
pub use approvals::{Approvals, LinkDecision, LinkUse};
pub use audit::{AUDIT_KINDS, Audit};
pub use budgets::Budgets;
pub use context::{Conflict, Context, Ports, TransactError};
pub use core::Core;
pub use cursor::{CursorKind, cursors, has_cursor_form};
pub use events::{Events, Followed, LedgerPlace, PageSize};
pub use governance::{Governance, OnFailure};
pub use keys::{Keys, MAX_KEYS, is_key};
pub use leave::{Authorizer, Runner, UNREACHED_LOOK, Verdict};
pub use parked::{ParkedSummary, Parking, Replayed, ToPark};
pub use records::{PolicyNoted, TENANTS_A_CALL};
pub use reputation::Reputation;
pub use rounds::Rounds;
pub use stats::{QueueFigures, Statistics};
pub use tasks::{CommandBuilder, CommandError, CommandWithWrites, Placed, Tasks, older_log};
pub use tenants::Tenants;
pub use types::*;
pub use waits::{NoPlace, WaitBounds, WaitPlaces, Waits};
