//! A position in a list of the store.

use std::fmt;
use std::sync::Arc;

use super::{Item, Key, ListEntry, StoreError, WhichList};

/// The position after an entry of a list, in either direction. [`Query::cursor`](super::Query)
/// takes its text and [`Page::next`](super::Page) returns it, so a caller that stops within a
/// page can build it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListCursor {
    pub sort: Arc<str>,
    pub key: Key,
}

impl ListCursor {
    pub fn after(entry: &ListEntry, key: &Key) -> Self {
        Self { sort: entry.sort.clone(), key: key.clone() }
    }

    /// The position after an item in a list; `None` where it is not in that list.
    pub fn of(item: &Item, list: WhichList) -> Option<Self> {
        let entry = match list {
            WhichList::First => &item.list,
            WhichList::Second => &item.list2,
        };
        entry.as_ref().map(|entry| Self::after(entry, &item.key))
    }

    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let (sort, partition, key_sort): (String, String, String) =
            serde_json::from_str(text).map_err(|_| StoreError::BadCursor(text.to_owned()))?;
        Ok(Self { sort: sort.into(), key: Key::new(partition, key_sort) })
    }
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&*self.sort, &*self.key.partition, &*self.key.sort];
        f.write_str(&serde_json::json!(parts).to_string())
    }
}
