//! How agents work: the contract of a run, the ops agent's loop (observe, orient, decide,
//! act), the playbook that decides without a model, and the tools that act. Technology
//! comes in through the traits of `ports` alone.
//!
//! - `run`: what an agent is given, and how its run may end.
//! - `ooda`: the loop; `playbook`: deciding by rules, as a pure function of the task.
//! - `spending`: the budget, around each call of a model.
//! - `tools`: monitor, investigate, alert, deploy; `redact`: no secret in what is reported.
//!
//! How to add a tool: a module in `tools` with typed parameters (`parse` from the plan's
//! JSON, naming the wrong field) and a `run`; a variant of `playbook::Action`; its arm in
//! `ooda::act`; its rows in the playbook's table tests. How to add a cause that an
//! investigation knows: a row in `tools::investigate::rules`.

pub mod executor;
pub mod ooda;
pub mod planner;
pub mod playbook;
pub mod ports;
pub mod records;
pub mod run;
pub mod spending;
pub mod steps;
pub mod tools;

pub use watchbill_redact as redact;
