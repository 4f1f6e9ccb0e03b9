//! The queue of tasks that a peer's programs share.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Status, Timestamp};

use super::{PeerError, PeerEvent, ReadTask};
use crate::TaskView;

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
        /// As it stands there.
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

/// What a peer's worker says of a task of ours.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerWord {
    Said {
        /// Assigned where it says none that is known.
        status: Status,
        /// The agent as it is written there.
        assigned_to: String,
        error: Option<String>,
        result: Option<Map<String, Value>>,
    },
    /// Nothing of that name stands there any more.
    Missing,
    /// What stands there is no task: why.
    Unreadable { reason: String },
}

/// Where a task came from over a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Out of the queue.
    Queue,
    /// Out of this domain's list.
    Domain(&'a str),
}

/// How one of the peer's tasks stands here, to be written over what it keeps of it.
#[derive(Clone, Copy, Debug)]
pub struct WriteBack<'a> {
    /// What is there with this version or a later one stays.
    pub task: &'a TaskView,
    /// What stands there; a whole task is written where it is nothing.
    pub over: Option<&'a str>,
    pub at: Timestamp,
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

/// A task of the queue that can't be taken over, and is put where people find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTask {
    pub id: String,
    /// What stood there, where there was something.
    pub data: Option<Vec<u8>>,
    pub reason: String,
    pub at: Timestamp,
}

/// A task of ours for a peer's workers, who are shown it as it is here. Its version is that of
/// the assignment: it grows each time the task is handed over anew.
#[derive(Clone, Debug)]
pub struct FedTask {
    pub task: TaskView,
    /// As its worker calls itself.
    pub assigned_to: String,
}

/// The queue of tasks that a peer's programs share.
#[async_trait]
pub trait PeerQueue: Send + Sync {
    /// Where a task came from, as its marks here say; nothing for one that came from no peer.
    fn origin<'a>(&self, task: &'a TaskView) -> Option<Origin<'a>>;

    /// Ids from a place on, the most urgent first.
    async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, PeerError>;

    /// How many stand in the queue.
    async fn depth(&self) -> Result<u64, PeerError>;

    /// What is kept of each, in the order of the ids.
    async fn read(&self, ids: &[String]) -> Result<Vec<PeerTask>, PeerError>;

    /// The same, read as tasks that may be taken over; nothing where there is nothing.
    async fn read_tasks(&self, ids: &[String]) -> Result<Vec<Option<ReadTask>>, PeerError>;

    /// The same of tasks of ours that the peer's workers have.
    async fn read_words(&self, ids: &[String]) -> Result<Vec<WorkerWord>, PeerError>;

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

    /// The event that the bundle has of a rejected task. Its id is made of what stood there:
    /// the same task is rejected once.
    fn rejection(&self, rejected: &RejectedTask) -> PeerEvent;

    /// Moves what can't be taken over out of the queue (or out of what was taken) to the
    /// rejected. A task that can still be found is made a failed one, and those who wait for it
    /// are told. False where it stands nowhere any more, or has other data by now than those
    /// that were rejected: nothing is changed then.
    async fn reject(&self, rejected: &RejectedTask) -> Result<bool, PeerError>;

    /// Writes what changed here over the peer's tasks. One that has ended is no longer among
    /// those that are worked on.
    async fn write(&self, writes: &[WriteBack<'_>]) -> Result<Vec<Wrote>, PeerError>;

    /// A page of the ids that are worked on, of us or others; the next page's cursor, 0 at
    /// the end.
    async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), PeerError>;

    /// Takes ids that have ended out of those that are worked on.
    async fn forget(&self, ids: &[String]) -> Result<(), PeerError>;

    /// Puts tasks of ours into the queue, once for each assignment. Answers for each in turn;
    /// the error is for people: something of another program stands under that id, which
    /// stays as it is.
    async fn offer(&self, tasks: &[FedTask]) -> Result<Vec<Result<(), String>>, PeerError>;

    /// The tasks of ours that stand with the peer: id, and seconds since they were put there.
    async fn offered(&self) -> Result<Vec<(String, u64)>, PeerError>;

    /// Puts a task of ours that was taken out of the queue and never begun into it again,
    /// as it is now; nothing where it stands in the queue and has not changed.
    async fn offer_again(&self, task: &FedTask) -> Result<(), PeerError>;

    /// Takes tasks of ours back: out of the queue and of what stands with the peer. What is
    /// kept of them stays.
    async fn withdraw(&self, ids: &[String]) -> Result<(), PeerError>;
}
