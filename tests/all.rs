//! Tests that no single crate can hold: the repository's own rules and the whole product. To add
//! a kind, create a folder with a mod.rs and declare it here.
//!
//! - `aws`: the function handlers over the AWS adapters, with failing calls.
//! - `repo`: rules that hold for the repository.
//! - `e2e`: scenarios over HTTP, the same for every backend. The one that deploys template.yaml
//!   needs `deployed/`, which is in Python, as is the emulator.
//! - `authorization`: no effect without authorization, in any order of events.
//! - `crash`: the shipped binary, repeatedly killed under load.
//! - `stream_replay`: router and recorder behind a stream that does everything streams may do.
//! - `bridge`: next to the programs that talk over Redis (`peers/`, in Python), with a real
//!   server.
//! - `tenants`: two tenants in one store, with every stored item inspected.
//! - `support`: test support that these share: the binary, a client, the audit of the records.

mod authorization;
mod aws;
mod bridge;
mod crash;
mod e2e;
mod repo;
mod stream_replay;
mod support;
mod tenants;
