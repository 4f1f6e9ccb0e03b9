//! The technology-free core of Watchbill: decisions, ports, repositories, the ledger and the
//! services.
//!
//! - `decide`: `(state, command, facts) → change | rejection`, pure. The only module with rules.
//! - `handler`: the error of a message handler.
//! - `ledger`: the recorded changes, in batches chained by hash.
//! - `offload`: long work on blocking threads.
//! - `ports`: what adapters implement (store, lanes, bus, clock, entropy …).
//! - `reactions`: event patterns and the tasks they create.
//! - `repo`: entities on the store: keys, lists, due times, codecs.
//! - `service`: load, decide, commit, and again on a conflict; called by handlers. One struct
//!   per subject (`Tasks`, `Approvals`, `Budgets` …), wired by `Core`.
//!
//! To add a command: a variant in `decide::Command`, its rule in `decide`, its row in the
//! property test `tests/decide.rs`. To add an entity: implement `repo::Entity`; adapters do not
//! change. To add a method or a service: see `service`. To add a port: a trait in `ports`, two
//! implementations and one conformance suite in `testkit`.

pub mod decide;
pub mod handler;
pub mod ledger;
pub mod offload;
pub mod ports;
pub mod reactions;
pub mod repo;
pub mod service;
