//! Adapters that go out over the network. Clients are built when first used, so that a
//! start pays for nothing that it does not need.
//!
//! - `key_set`: an identity provider's keys. `webhook`: notices to an endpoint, signed.
//! - `probes`: how services are, over HTTP(S) and TCP, within a policy on where to go.
//!
//! How to add an adapter: a module of its own that implements one port; errors say what was
//! tried and what to set; a test with a scripted server that misbehaves.

pub mod key_set;
pub mod probes;
pub mod webhook;
