//! The runtime of agents: the contract of a run, the loop (observe, orient, decide, act), the
//! registered tools, and the journal of external effects. It knows nothing of ops.
//!
//! - `executor`: one lane message, from claim to end. `run`: the input of an agent, and how its
//!   run may end.
//! - `ooda`: the loop, and the port of its decider.
//! - `tool`: the trait of tools and their registry. `journal`: effects, each at most once.
//! - `model_budget`: the budget of each model call.
//! - `evidence`: what agents can observe. `probe`: health checks of services. `history`: the
//!   bundle's own tasks. `port_error`: errors of external services.
//!
//! To add a tool: in its capability under `shared/ops`, with a line in the catalog's list. To
//! add an observation: a method of `Evidence`, and its join in the catalog.

pub mod evidence;
pub mod executor;
pub mod history;
pub mod journal;
pub mod model_budget;
pub mod ooda;
pub mod port_error;
pub mod probe;
pub mod run;
pub mod tool;
