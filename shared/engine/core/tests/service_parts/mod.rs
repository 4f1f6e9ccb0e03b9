//! Tests of the services, one module per subject.

mod approvals;
mod authorization;
mod bodies;
mod bounds;
mod budget;
mod degraded;
mod events;
mod four_eyes;
mod held;
mod identity;
mod keys;
mod lists;
mod log_lines;
mod lost_answers;
mod not_built;
mod places;
mod runs;
mod standing;
mod unreadable;
mod walks;
