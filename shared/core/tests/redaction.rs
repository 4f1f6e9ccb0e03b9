//! Redaction: secrets in foreign forms, honest text, and what it costs.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "redaction/foreign.rs"]
mod foreign;
