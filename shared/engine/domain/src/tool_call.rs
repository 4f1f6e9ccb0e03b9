//! A call of a tool, as governance and journal see it.

use serde_json::{Map, Value};

/// One call of a tool, before it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub tool: String,
    pub arguments: Map<String, Value>,
    /// Whether anything but Watchbill's own books can change by it.
    pub mutating: bool,
}
