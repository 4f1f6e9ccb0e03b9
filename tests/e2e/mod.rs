//! Scenarios over HTTP, written once and run against every backend.
//!
//! To add a scenario: a function in `scenarios/`, its name in the list in `scenarios/mod.rs`. To
//! add a backend: implement `Backend`, and a module with `run_scenarios!(YourBackend)`.

mod backend;
mod deployed;
mod embedded;
mod process;
mod scenarios;

use backend::{Backend, RedisSettings, Settings, World};
