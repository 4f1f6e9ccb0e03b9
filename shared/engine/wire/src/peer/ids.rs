//! Ids of peers' tasks: as they are there, and as they are here.
//!
//! A task whose id had to be escaped bears the peer's own in its metadata. One of a build that
//! did not escape has no such mark, and its id is the peer's own as it stands.

use std::borrow::Cow;

use serde_json::{Map, Value};
use watchbill_domain::{TaskId, escape_id};

use crate::TaskView;

/// The mark in a task's metadata.
pub const PEER_ID: &str = "peer_id";

/// A peer's id as it is kept here.
pub fn id_of_peer(id: &str) -> Result<TaskId, String> {
    TaskId::parse(&escape_id(id)).map_err(|error| error.to_string())
}

/// Under which ids a peer's task may be kept here: the escaped one, and the peer's own, which
/// builds before this one took as it was.
pub fn ids_of_peer(id: &str) -> Vec<TaskId> {
    let own = TaskId::parse(id).ok();
    let escaped = id_of_peer(id).ok();
    let own = own.filter(|own| Some(own) != escaped.as_ref());
    escaped.into_iter().chain(own).collect()
}

/// Marks a task's metadata, where its id is another here.
pub fn mark(metadata: &mut Map<String, Value>, id: &str) {
    metadata.remove(PEER_ID);
    if let Cow::Owned(_) = escape_id(id) {
        metadata.insert(PEER_ID.into(), id.into());
    }
}

impl TaskView {
    /// The id that the task has with the peer it came from; its own where it came from none.
    pub fn peer_id(&self) -> &str {
        let marked = self.metadata.get(PEER_ID).and_then(Value::as_str);
        // A mark that says anything else is some caller's.
        let ours = marked.filter(|id| escape_id(id) == self.task_id.as_str());
        ours.unwrap_or(self.task_id.as_str())
    }
}
