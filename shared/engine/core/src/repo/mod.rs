//! Typed repositories on the store: an entity's key, its lists and its due time. Adapters never
//! see an entity.

mod budget;
mod codec;
mod effect_record;
mod entities;
mod keys;
mod parked;
mod peek;
mod task;

pub use budget::{COUNTED, MAX_AMOUNT, TenantLimits, budget_write, period_state, refused_by};
pub use codec::{Entity, Versioned, decode, encode};
pub use effect_record::{EffectRecord, EffectResult};
pub use entities::{
    Child, CurrentPolicy, KEEP_REVOKED_KEYS, KeyRecord, MAX_CHILDREN, PolicyRollout, Projection,
    REPUTATION_FOLD, Round, STATS_FOLD, UsedLink, WaitSlot, Window, child_counted,
    has_most_children,
};
pub use keys::*;
pub use parked::{ParkedKey, ParkedTenant};
pub use peek::{LedgerPeek, RoutePeek};
pub use task::{Overflow, PreviousState, StoredTask, TaskWrite, body_item, read_body, task_item};
