//! The values of the keys, as the texts that are stored.

/// An update of a legacy task that has changed here.
#[derive(Clone, Debug)]
pub struct TaskWrite {
    pub id: String,
    /// Our task's version; the same or a later one in Redis is kept.
    pub version: u64,
    pub data: String,
    pub status: String,
    /// RFC 3339.
    pub updated_at: String,
    pub created_at: String,
    /// `P0` to `P3`.
    pub priority: String,
    /// The task has ended and leaves the processing set.
    pub ended: bool,
}

/// An unreadable item, kept where people find it.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The list or set that held it.
    pub queue: String,
    /// The id in the queue, or the whole message, unchanged.
    pub member: Vec<u8>,
    pub reason: String,
    /// The data stored under that id, if any.
    pub data: Option<Vec<u8>>,
    /// RFC 3339.
    pub at: String,
}

/// What clients of a rejected task are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The task's new data.
    pub data: String,
    pub messages: Vec<LegacyMessage>,
}

/// A task of ours for legacy workers.
#[derive(Clone, Debug)]
pub struct TaskOffer {
    pub id: String,
    pub score: f64,
    pub data: String,
    pub status: String,
    pub created_at: String,
    pub priority: String,
    /// Increments each time the task is handed over again.
    pub assignment: u32,
}

/// A message on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyMessage {
    pub channel: String,
    pub text: String,
}

/// What a domain's clients see of a task.
#[derive(Clone, Debug, Default)]
pub struct DomainWrite {
    pub id: String,
    /// Our task's version; the same or a later one in Redis is kept.
    pub version: u64,
    /// The fields of the result's hash.
    pub fields: Vec<(String, String)>,
    pub logs: Vec<String>,
    /// The result as JSON for waiting clients, once there is one.
    pub publish: Option<String>,
    /// The task is finished: its message leaves the active ones.
    pub done: bool,
}

/// A message of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedMessage {
    pub message: Vec<u8>,
    /// It was taken before.
    pub again: bool,
}

/// An agent as legacy programs find it.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    /// The type of the `domain`.
    pub domain: String,
    pub container_id: Option<String>,
    /// JSON.
    pub metadata: String,
    /// RFC 3339.
    pub at: String,
}
