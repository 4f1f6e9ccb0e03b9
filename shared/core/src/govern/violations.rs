//! Calls that are refused whatever anyone says: dangerous commands, unknown targets.

use super::{Inventory, ToolCall};

/// What is wrong with a mutating call, in words; nothing if nothing is.
pub fn find(call: &ToolCall, inventory: &Inventory) -> Option<String> {
    let _ = (call, inventory);
    None
}
