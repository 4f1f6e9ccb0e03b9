//! Probes and webhooks, over scripted servers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod probes;
mod webhook;
