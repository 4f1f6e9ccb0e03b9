//! What handlers call: load, decide, commit, and load again on a conflict.
//!
//! One struct per service, each over [`Context`], which holds the ports and the one way to
//! commit ([`Context::transact`]); [`Core`] wires them.
//!
//! - [`Tasks`]: create, read, list and change tasks; run commands on them.
//! - [`Approvals`]: list them, and decide them together with their tasks.
//! - [`Authorizer`]: governance's authorization of a run, and of a call within it.
//! - [`Budgets`]: limits, their usage, prices. [`Reputation`]: scores and levels.
//! - [`Audit`]: the audit log, its batches and seals, records that belong to no task.
//! - [`Events`]: publish, list and follow. [`Waits`]: slots of waiting calls.
//! - [`Keys`]: API keys. [`Tenants`]: the list of tenants. [`Statistics`]: counts of open work.
//! - [`Parking`]: changes that cannot be recorded now. [`Rounds`]: work over all tenants, in parts.
//!
//! To add a method: put it into the service and the file of its subject. It reads through
//! `self.context`, builds its writes from what it read, and passes them to `transact`; on a
//! conflict it reads and builds them again.
//!
//! To add a service: a struct over `Context` and the services that it needs, in a file of its own,
//! built in `Core::wire`, with one accessor. A capability has its own service in its own crate: it
//! takes `core.context()` and the services that it needs when it is built, and adds nothing here.

mod approval_builder;
mod approvals;
mod audit;
mod authorizer;
mod budgets;
mod context;
mod core;
mod cursor;
mod events;
mod governance;
mod handler_error;
mod keys;
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
pub use authorizer::{AuthorizedChange, Authorizer, Runner, UNREACHABLE_RETRY_DELAY};
pub use budgets::Budgets;
pub use context::{Conflict, Context, Ports, TransactError};
pub use core::Core;
pub use cursor::{CursorKind, cursors, has_cursor_form};
pub use events::{Events, EventsAfter, LedgerPlace, PageSize};
pub use governance::{Governance, OnFailure};
pub use keys::{Keys, MAX_KEYS, is_key};
pub use parked::{ParkedSummary, Parking, Replayed, ToPark};
pub use records::{PolicyCheck, TENANTS_A_CALL};
pub use reputation::Reputation;
pub use rounds::Rounds;
pub use stats::{QueueCounts, Statistics};
pub use tasks::{CommandBuilder, CommandError, CommandWithWrites, StoredBody, Tasks, older_log};
pub use tenants::Tenants;
pub use types::*;
pub use waits::{HeldWaitSlots, WaitBounds, WaitLimitReached, Waits};
