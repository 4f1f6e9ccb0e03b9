//! What the ops agent can do, each over ports only.

pub mod alert;
pub mod deploy;
pub mod fields;
pub mod investigate;
pub mod judge;
pub mod logs;
pub mod monitor;
