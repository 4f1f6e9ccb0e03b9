//! A tool call, as governance and the journal see it.

use serde_json::{Map, Value};

/// One tool call, before it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub tool: String,
    pub arguments: Map<String, Value>,
    /// Whether it can change anything other than Watchbill's own records.
    pub mutating: bool,
}
