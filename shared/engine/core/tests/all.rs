//! Tests of the core's decisions, services, ledger and stored formats.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod common;
mod decide;
mod forms;
mod ledger;
mod policy;
mod reputation;
mod service_parts;
mod state_machine;
mod tampering;
