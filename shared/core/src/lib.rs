//! What Watchbill decides, without any technology: the domain, the decisions, the ports
//! that adapters implement and the typed repositories that stand on them.
//!
//! - `domain`: tasks, approvals, events and their parts, as types that can't hold nonsense.
//! - `decide`: `(state, command, facts) → change | rejection`, pure. The only place with rules.
//! - `govern`: budget, permission, reputation, policy: what must hold before anything runs.
//! - `offload`: long work, beside the runtime's threads.
//! - `ports`: what the outside must provide (store, lanes, bus, clock, entropy …).
//! - `redact`: takes secrets out of whatever is shown, sent or recorded.
//! - `repo`: entities on the store: keys, lists, due times, codecs.
//! - `service`: load, decide, commit, and on a conflict again; what handlers call.
//!
//! How to add a command: a variant in `decide::Command`, its rule in `decide`, its row in
//! the property test `tests/decide.rs`. How to add an entity: implement `repo::Entity`; no
//! adapter changes. How to add a port: a trait in `ports`, two implementations and one
//! conformance suite in `testkit`.

pub mod decide;
pub mod domain;
pub mod govern;
pub mod handler;
pub mod ledger;
pub mod offload;
pub mod ports;
pub mod reactions;
pub mod redact;
pub mod repo;
pub mod service;
