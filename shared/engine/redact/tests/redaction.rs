//! Redaction: secrets in foreign forms, ordinary text, and growth of the time with the text.

#[path = "redaction/foreign.rs"]
mod foreign;
#[path = "redaction/growth.rs"]
mod growth;
#[path = "redaction/honest.rs"]
mod honest;
