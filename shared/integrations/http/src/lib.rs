//! Adapters that send network requests. Clients are created on first use, to keep startup
//! cheap.
//!
//! - `key_set`: an identity provider's keys. `webhook`: signed notifications to an endpoint.
//! - `probes`: health checks of services over HTTP(S) and TCP, limited by a policy on
//!   addresses.
//!
//! To add an adapter: a module that implements one port, errors that say what was tried and
//! which setting to change, and a test with a mock server that misbehaves.

pub mod key_set;
pub mod probes;
pub mod webhook;

/// An error with its causes, which reqwest's own text omits.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
