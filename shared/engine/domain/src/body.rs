use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object that stands in the header if it is small, and in an item or blob of its
/// own if not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Here.
    In(Map<String, Value>),
    /// In an item beside the header, of so many bytes.
    Item(u64),
    /// In the blob store: key and bytes.
    Blob(String, u64),
}

impl Body {
    /// Bytes of its JSON. What stands in the header counts there.
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
