//! Typed repositories on the store: which entity stands under which key, in which lists,
//! when it is due. Adapters never see an entity.

mod codec;
mod entities;
mod keys;
mod peek;
mod step;
mod task;

pub use codec::{Entity, Versioned, decode, encode};
pub use entities::{Child, Fold, KeyRecord, PolicyMark, UsedLink, Window};
pub use keys::*;
pub use peek::{LedgerPeek, RoutePeek};
pub use step::{Step, StepOutcome};
pub use task::{Before, Overflow, StoredTask, TaskWrite, body_item, read_body, task_item};
