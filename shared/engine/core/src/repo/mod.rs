//! Typed repositories on the store: which entity stands under which key, in which lists,
//! when it is due. Adapters never see an entity.

mod budget;
mod codec;
mod entities;
mod keys;
mod parked;
mod peek;
mod step;
mod task;

pub use budget::{COUNTED, MOST_AMOUNT, TenantLimits, budget_write, period_state, refused_by};
pub use codec::{Entity, Versioned, decode, encode};
pub use entities::{
    Child, Fold, KEEP_REVOKED_KEYS, KeyRecord, MAX_CHILDREN, PolicyMark, PolicyTelling,
    REPUTATION_FOLD, Round, STATS_FOLD, UsedLink, WaitPlace, Window, child_counted,
    has_most_children,
};
pub use keys::*;
pub use parked::{ParkedKey, ParkedTenant};
pub use peek::{LedgerPeek, RoutePeek};
pub use step::{Step, StepOutcome};
pub use task::{Before, Overflow, StoredTask, TaskWrite, body_item, read_body, task_item};
