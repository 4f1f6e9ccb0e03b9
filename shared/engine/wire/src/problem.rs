//! The format of error responses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FieldError;

/// An error, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The kind of problem, for programs: `urn:watchbill:not-found` and the like.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status as text.
    pub title: String,
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// What was wrong, with which value, and what to do next.
    pub detail: String,
    /// Each field that was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}
