//! Tests of probes and webhooks against mock servers.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod probes;
mod webhook;
