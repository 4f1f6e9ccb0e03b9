//! Decisions, services, ledger and forms of the core.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod common;
mod decide;
mod forms;
mod ledger;
mod life;
mod policy;
mod reputation;
mod service_parts;
mod tampering;
