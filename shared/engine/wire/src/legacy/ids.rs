//! Maps ids of legacy tasks to ids in our backend.
//!
//! A task whose id had to be escaped carries the legacy id in its metadata. Tasks imported by
//! builds that did not escape have no such mark; their id is the legacy id.

use std::borrow::Cow;

use serde_json::{Map, Value};
use watchbill_domain::{TaskId, escape_id};

use crate::TaskView;

/// The metadata field that holds the legacy id.
pub const LEGACY_ID: &str = "peer_id";

/// The id under which a legacy task is stored in our backend.
pub fn legacy_id(id: &str) -> Result<TaskId, String> {
    TaskId::parse(&escape_id(id)).map_err(|error| error.to_string())
}

/// The ids under which a legacy task may be stored: the escaped id and, from earlier builds,
/// the legacy id itself.
pub fn legacy_ids(id: &str) -> Vec<TaskId> {
    let own = TaskId::parse(id).ok();
    let escaped = legacy_id(id).ok();
    let own = own.filter(|own| Some(own) != escaped.as_ref());
    escaped.into_iter().chain(own).collect()
}

/// Marks a task's metadata if its id in our backend differs.
pub fn mark(metadata: &mut Map<String, Value>, id: &str) {
    metadata.remove(LEGACY_ID);
    if let Cow::Owned(_) = escape_id(id) {
        metadata.insert(LEGACY_ID.into(), id.into());
    }
}

impl TaskView {
    /// The task's id in the legacy queue. For other tasks, the task's own id.
    pub fn peer_id(&self) -> &str {
        let marked = self.metadata.get(LEGACY_ID).and_then(Value::as_str);
        // A mark that does not match the id was set by a caller.
        let ours = marked.filter(|id| escape_id(id) == self.task_id.as_str());
        ours.unwrap_or(self.task_id.as_str())
    }
}
