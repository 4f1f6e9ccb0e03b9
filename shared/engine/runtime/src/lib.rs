//! How agents work: the contract of a run, the loop (observe, orient, decide, act), the tools
//! that are registered, and how what is done outside is accounted for. Knows nothing of ops.
//!
//! - `executor`: one lane message, from claim to end. `run`: what an agent is given, and how its
//!   run may end.
//! - `ooda`: the loop, and the port of whoever decides in it.
//! - `tool`: the trait of tools and their registry. `steps`: effects, each at most once.
//! - `spending`: the budget, around each call of a model.
//! - `evidence`: what can be read of the estate. `probe`: asking services how they are. `history`:
//!   the bundle's own tasks.
//!
//! How to add a tool: in its capability under `shared/ops`, with a line in the catalog's list. How
//! to add something that agents observe: a method of `Evidence`, and its join in the catalog.

pub mod evidence;
pub mod executor;
pub mod history;
pub mod ooda;
pub mod port_error;
pub mod probe;
pub mod run;
pub mod spending;
pub mod steps;
pub mod tool;
