//! A peer: programs of others that keep their tasks, events and results in a server of their
//! own, beside which this project works. What stands there is theirs: it is changed only as
//! their programs expect it, and never taken for granted, because the server may lose it.
//!
//! Every call may be made again: after an error nobody knows whether it was carried out, and
//! each is built so that a second time changes nothing.

use std::time::Duration;

use async_trait::async_trait;

/// Why a call on a peer was not carried out. The text is for people: what was wrong, with
/// which key, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not there, or too slow: it may be there in a moment.
    #[error("{0}")]
    Away(String),
    /// It is there, and refuses until someone changes something: a password, a role, memory.
    #[error("{0}")]
    Refused(String),
    /// A key is of another kind than these programs write: it is someone else's.
    #[error("{0}")]
    Foreign(String),
}

/// An id as it stands in the peer's queue, with what its order is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    pub id: String,
    /// P0 is 1, P3 is 4: the least is the most urgent.
    pub score: f64,
}

/// What a peer keeps of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTask {
    Found {
        /// The task as JSON.
        data: String,
        status: String,
        /// The assignment with which we handed it over, where it is one of ours.
        fed: Option<u32>,
        /// We have [written](PeerQueue::write) over it.
        written: bool,
    },
    /// The id stands in the queue, and there is nothing of that name.
    Missing,
    /// It is no task of these programs: why, and what stands in place of its data, if anything.
    Unreadable { reason: String, data: Option<Vec<u8>> },
}

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    Written,
    /// This version or a later one stands there already.
    Older,
    /// There was nothing of that name any more: the peer has lost it. It is there again.
    Lost,
    /// Another kind of key stands there: it was left as it is.
    Foreign,
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

/// The queue of tasks that a peer's programs share.
#[async_trait]
pub trait PeerQueue: Send + Sync {
    /// Ids from a place on, the most urgent first.
    async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, PeerError>;

    /// How many stand in the queue.
    async fn depth(&self) -> Result<u64, PeerError>;

    /// What is kept of each, in the order of the ids.
    async fn read(&self, ids: &[String]) -> Result<Vec<PeerTask>, PeerError>;

    /// Takes those that still stand in the queue, so that nobody else can, and puts them among
    /// those that are worked on. Answers which. What is not [settled](Self::settle) within the
    /// lease is [taken again](Self::retake).
    async fn take(
        &self,
        ids: &[String],
        taker: &str,
        lease: Duration,
    ) -> Result<Vec<String>, PeerError>;

    /// Takes again what was taken and not settled in time.
    async fn retake(
        &self,
        taker: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<String>, PeerError>;

    /// These are recorded here: their leases end. They go on standing among those that are
    /// worked on until a [write](Self::write) ends them.
    async fn settle(&self, ids: &[String]) -> Result<(), PeerError>;

    /// Moves what can't be taken over out of the queue (or out of what was taken) to the
    /// rejected. A task that can still be found is made the failed one, and the messages go out.
    /// False where it stands nowhere any more, or has other data by now than those that were
    /// rejected: nothing is changed then.
    async fn reject(&self, rejected: &Rejected, failure: &Failure) -> Result<bool, PeerError>;

    /// Writes what changed here over the peer's tasks.
    async fn write(&self, writes: &[TaskWrite]) -> Result<Vec<Wrote>, PeerError>;

    /// A page of the ids that are worked on, of us or others; the next page's cursor, 0 at
    /// the end.
    async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), PeerError>;

    /// Takes ids that have ended out of those that are worked on.
    async fn forget(&self, ids: &[String]) -> Result<(), PeerError>;

    /// Puts tasks of ours into the queue, once for each assignment. Answers for each in turn;
    /// the error is for people: something of another program stands under that id, which
    /// stays as it is.
    async fn offer(&self, offers: &[Offer]) -> Result<Vec<Result<(), String>>, PeerError>;

    /// The tasks of ours that stand with the peer: id, and seconds since they were put there.
    async fn offered(&self) -> Result<Vec<(String, u64)>, PeerError>;

    /// Puts a task of ours that was taken out of the queue and never begun into it again,
    /// with other data; nothing where it stands in the queue and the data are the same.
    async fn offer_again(&self, offer: &Offer) -> Result<(), PeerError>;

    /// Takes tasks of ours back: out of the queue and of what stands with the peer. What is
    /// kept of them stays.
    async fn withdraw(&self, ids: &[String]) -> Result<(), PeerError>;
}

/// A message for all who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    pub channel: String,
    pub text: String,
}

/// The channels on which a peer's programs tell each other what happens.
#[async_trait]
pub trait PeerChannels: Send + Sync {
    /// How far whoever writes under this name has come.
    async fn cursor(&self, name: &str) -> Result<Option<String>, PeerError>;

    /// Publishes all of them and moves the cursor, in one step, if the cursor still stands at
    /// `from`. False where it does not: another was faster, or an earlier try of ours that
    /// seemed to fail; nothing was published then.
    async fn publish(
        &self,
        name: &str,
        from: Option<&str>,
        to: &str,
        messages: &[PeerMessage],
    ) -> Result<bool, PeerError>;

    /// Listens on all channels that fit one of the patterns. Whoever does not listen misses
    /// what is said.
    async fn listen(&self, patterns: &[String]) -> Result<Box<dyn PeerListener>, PeerError>;
}

#[async_trait]
pub trait PeerListener: Send {
    async fn next(&mut self) -> Result<PeerMessage, PeerError>;
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

/// The lists by which a domain gets its tasks and gives back results.
#[async_trait]
pub trait PeerDomains: Send + Sync {
    /// Moves messages from the pending to the active ones, the longest waiting first, and
    /// first of all those that were taken and not [settled](Self::settle_message) in time. The bytes are
    /// kept exactly.
    async fn take_messages(
        &self,
        domain: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Taken>, PeerError>;

    /// The message is of this task: under its id the message is found again. Its lease goes on.
    async fn begin(&self, domain: &str, id: &str, message: &[u8]) -> Result<(), PeerError>;

    /// The task is recorded here: the message's lease ends.
    async fn settle_message(&self, domain: &str, message: &[u8]) -> Result<(), PeerError>;

    /// Moves a message that can't be taken over from the active ones to the rejected. Where it
    /// says which task it is and no result stands there, `result` does from then on, and is
    /// published.
    async fn refuse(
        &self,
        domain: &str,
        rejected: &Rejected,
        result: Option<&DomainWrite>,
    ) -> Result<(), PeerError>;

    /// In one step: the result's fields, its logs, its publication, and once it is done the
    /// end of its message among the active ones.
    async fn write_result(&self, domain: &str, write: &DomainWrite) -> Result<Wrote, PeerError>;

    /// The tasks that have begun and are not done.
    async fn open(&self, domain: &str) -> Result<Vec<String>, PeerError>;

    async fn pending(&self, domain: &str) -> Result<u64, PeerError>;
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

#[async_trait]
pub trait PeerRegistry: Send + Sync {
    async fn register(&self, registration: &Registration) -> Result<(), PeerError>;

    /// Alive for this long from now. False where the registry does not know it (any more):
    /// nothing is written then.
    async fn beat(&self, id: &str, at: &str, lasts: Duration) -> Result<bool, PeerError>;

    async fn deregister(&self, registration: &Registration) -> Result<(), PeerError>;
}

/// What models have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub tokens: u64,
    pub usd: f64,
    /// Tasks whose models were asked, where that is known.
    pub requests: Option<u64>,
}

/// What costs are summed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CostOf {
    /// `2026-01-31`.
    Day(String),
    /// `2026-01-31-23`.
    Hour(String),
    Trace(String),
}

/// What a peer's programs are shown. Nothing of it is ever read back here; but they decide by
/// the sums, and keep approvals of their own under the same names: what they wrote stays.
#[async_trait]
pub trait PeerMirror: Send + Sync {
    /// An approval that waits. False where one of the peer's own stands under that id.
    async fn approval_waits(&self, id: &str, json: &str) -> Result<bool, PeerError>;

    /// An approval that was decided: out of the waiting ones, first in the history, once. False
    /// where one of the peer's own stands under that id.
    async fn approval_decided(&self, id: &str, json: &str) -> Result<bool, PeerError>;

    /// Adds to a sum what is new in `so_far` since the last call for the same `part`: the
    /// figures of a part only grow, and no sum is ever lowered.
    async fn add_cost(&self, sum: &CostOf, part: &str, so_far: Cost) -> Result<(), PeerError>;
}

/// How the connection stands.
#[async_trait]
pub trait PeerHealth: Send + Sync {
    async fn ping(&self) -> Result<(), PeerError>;

    /// Members of the queue whose ids were none, and which [`PeerQueue::peek`] itself moved to
    /// the rejected, since the start.
    fn moved_aside(&self) -> u64;
}

/// A peer with all it can.
pub trait Peer:
    PeerQueue + PeerChannels + PeerDomains + PeerRegistry + PeerMirror + PeerHealth
{
}

impl<T> Peer for T where
    T: PeerQueue + PeerChannels + PeerDomains + PeerRegistry + PeerMirror + PeerHealth
{
}
