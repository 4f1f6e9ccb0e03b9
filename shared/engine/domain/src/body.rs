//! Where a task's payload or result is stored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object. A small one is stored in the task's header, a larger one in its own item or
/// blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// In the header.
    In(Map<String, Value>),
    /// In an item next to the header; its size in bytes.
    Item(u64),
    /// In the blob store: key and size in bytes.
    Blob(String, u64),
}

impl Body {
    /// Size of its JSON in bytes. Zero if it is in the header, whose size already includes it.
    pub fn bytes(&self) -> usize {
        match self {
            Body::In(_) => 0,
            Body::Item(bytes) | Body::Blob(_, bytes) => {
                usize::try_from(*bytes).unwrap_or(usize::MAX)
            }
        }
    }

    pub fn inline(&self) -> Option<&Map<String, Value>> {
        match self {
            Body::In(map) => Some(map),
            Body::Item(_) | Body::Blob(..) => None,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::In(Map::new())
    }
}
