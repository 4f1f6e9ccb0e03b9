//! Redaction: secrets in foreign forms, honest text, and what it costs.

#[path = "redaction/foreign.rs"]
mod foreign;
#[path = "redaction/growth.rs"]
mod growth;
#[path = "redaction/honest.rs"]
mod honest;
