//! What Watchbill decides, without any technology: the decisions, the ports that adapters
//! implement, the typed repositories that stand on them, the ledger and the services.
//!
//! - `decide`: `(state, command, facts) → change | rejection`, pure. The only place with rules.
//! - `offload`: long work, beside the runtime's threads.
//! - `ports`: what the outside must provide (store, lanes, bus, clock, entropy …).
//! - `repo`: entities on the store: keys, lists, due times, codecs.
//! - `service`: load, decide, commit, and on a conflict again; what handlers call. One struct per
//!   matter (`Tasks`, `Approvals`, `Budgets` …), wired by `Core`.
//!
//! How to add a command: a variant in `decide::Command`, its rule in `decide`, its row in
//! the property test `tests/decide.rs`. How to add an entity: implement `repo::Entity`; no
//! adapter changes. How to add a method or a service: see `service`. How to add a port: a trait
//! in `ports`, two implementations and one conformance suite in `testkit`.

pub mod decide;
pub mod handler;
pub mod ledger;
pub mod offload;
pub mod ports;
pub mod reactions;
pub mod repo;
pub mod service;
