//! What goes into the keys and comes out of them, in the texts that stand there.

/// What is written over a peer's task when it has changed here.
#[derive(Clone, Debug)]
pub struct TaskWrite {
    pub id: String,
    /// Of our task: what is there with this or a later one stays.
    pub version: u64,
    pub data: String,
    pub status: String,
    /// RFC 3339.
    pub updated_at: String,
    pub created_at: String,
    /// `P0` to `P3`.
    pub priority: String,
    /// It has ended: it is no longer among those that are worked on.
    pub ended: bool,
}

/// What could not be read, and is put where people find it.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The list or set it stood in.
    pub queue: String,
    /// The id in the queue, or the whole message, as it was there.
    pub member: Vec<u8>,
    pub reason: String,
    /// What was kept under that id, where there was something.
    pub data: Option<Vec<u8>>,
    /// RFC 3339.
    pub at: String,
}

/// What those are told who wait for a task that is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The task as it stands there from then on.
    pub data: String,
    pub messages: Vec<PeerMessage>,
}

/// A task of ours for a peer's workers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub id: String,
    pub score: f64,
    pub data: String,
    pub status: String,
    pub created_at: String,
    pub priority: String,
    /// Grows each time the task is handed over anew.
    pub assignment: u32,
}

/// A message for all who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    pub channel: String,
    pub text: String,
}

/// What a domain's clients are shown of a task.
#[derive(Clone, Debug, Default)]
pub struct DomainWrite {
    pub id: String,
    /// Of our task: what is there with this or a later one stays.
    pub version: u64,
    /// The fields of the result, as they stand in its hash.
    pub fields: Vec<(String, String)>,
    pub logs: Vec<String>,
    /// The result as JSON, for who waits for it; only when it is there.
    pub publish: Option<String>,
    /// Nothing more is done to it: its message leaves the active ones.
    pub done: bool,
}

/// A message of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub message: Vec<u8>,
    /// It had been taken before.
    pub again: bool,
}

/// An agent as a peer's programs find it.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    /// `domain` with its type.
    pub domain: String,
    pub container_id: Option<String>,
    /// JSON.
    pub metadata: String,
    /// RFC 3339.
    pub at: String,
}
