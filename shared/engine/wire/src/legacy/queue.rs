//! The queue of tasks that the legacy programs share.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Status, Timestamp};

use super::{LegacyError, LegacyEvent, ReadTask};
use crate::TaskView;

/// An id in the legacy queue, with the score that orders it.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    pub id: String,
    /// P0 is 1, P3 is 4: the lowest is the most urgent.
    pub score: f64,
}

/// The legacy record of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyTask {
    Found {
        /// The data as stored.
        data: String,
        status: String,
        /// The assignment with which we exported it, if it is one of our tasks.
        fed: Option<u32>,
        /// Whether we have [written](LegacyTasks::write) to it.
        written: bool,
    },
    /// The id is in the queue, but there is no record with that name.
    Missing,
    /// The record is not a task of these programs: the reason, and the data that is stored
    /// instead, if any.
    Unreadable { reason: String, data: Option<Vec<u8>> },
}

/// What a legacy worker reports about a task of ours.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerUpdate {
    Report {
        /// Assigned if the stored status is unknown.
        status: Status,
        /// The agent as it is written there.
        assigned_to: String,
        error: Option<String>,
        result: Option<Map<String, Value>>,
    },
    /// There is no record with that name any more.
    Missing,
    /// The record is not a task: the reason.
    Unreadable { reason: String },
}

/// How a task came from the legacy programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// From the queue.
    Queue,
    /// From this domain's list.
    Domain(&'a str),
}

/// The current state of a legacy task, to be written to its legacy record.
#[derive(Clone, Copy, Debug)]
pub struct WriteBack<'a> {
    /// A record with this version or a later one is kept.
    pub task: &'a TaskView,
    /// The stored data. If `None`, a whole task is written.
    pub over: Option<&'a str>,
    pub at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    Written,
    /// This version or a later one is stored already.
    Older,
    /// The record did not exist any more: the legacy server had lost it. It is written again.
    Lost,
    /// A key of another type is stored there. It is left unchanged.
    Foreign,
}

/// A queued task that can't be imported. It is stored where people find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTask {
    pub id: String,
    /// What was stored there, if anything.
    pub data: Option<Vec<u8>>,
    pub reason: String,
    pub at: Timestamp,
}

/// A task of ours for the legacy workers. Its version is that of the assignment, which grows
/// with each further export.
#[derive(Clone, Debug)]
pub struct ExportedTask {
    pub task: TaskView,
    /// The name that its worker uses for itself.
    pub assigned_to: String,
}

/// The queue of tasks that the legacy programs share.
#[async_trait]
pub trait LegacyTasks: Send + Sync {
    /// Where a task came from, by the marks in its metadata. `None` if it was not imported.
    fn origin<'a>(&self, task: &'a TaskView) -> Option<Origin<'a>>;

    /// Up to `most` ids from position `from` on, the most urgent first.
    async fn peek(&self, from: usize, most: usize) -> Result<Vec<Queued>, LegacyError>;

    /// The length of the queue.
    async fn depth(&self) -> Result<u64, LegacyError>;

    /// The legacy record of each id, in the order of the ids.
    async fn read(&self, ids: &[String]) -> Result<Vec<LegacyTask>, LegacyError>;

    /// The same, parsed as tasks that may be imported. `None` if there is no record.
    async fn read_tasks(&self, ids: &[String]) -> Result<Vec<Option<ReadTask>>, LegacyError>;

    /// Reads what the legacy workers report about tasks of ours.
    async fn read_words(&self, ids: &[String]) -> Result<Vec<WorkerUpdate>, LegacyError>;

    /// Takes the ids that are still in the queue, exclusively, and adds them to the active
    /// ones. Returns the ids it took. Tasks not [acknowledged](Self::ack) within the lease are
    /// [reclaimed](Self::reclaim).
    async fn take(
        &self,
        ids: &[String],
        taker: &str,
        lease: Duration,
    ) -> Result<Vec<String>, LegacyError>;

    /// Reclaims tasks that were taken and not acknowledged in time.
    async fn reclaim(
        &self,
        taker: &str,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<String>, LegacyError>;

    /// These tasks are recorded in our backend: ends their leases. They stay among the active
    /// ones until a [write](Self::write) finishes them.
    async fn ack(&self, ids: &[String]) -> Result<(), LegacyError>;

    /// The event that the backend publishes for a rejected task. Its id is derived from the
    /// stored data, so the same task is rejected only once.
    fn rejection(&self, rejected: &RejectedTask) -> LegacyEvent;

    /// Moves a task that can't be imported from the queue (or the taken tasks) to the rejected
    /// ones. If its record exists, marks it as failed and notifies waiting clients. Returns
    /// false, without a change, if the task is in neither place any more or its data has
    /// changed.
    async fn reject(&self, rejected: &RejectedTask) -> Result<bool, LegacyError>;

    /// Writes the changes of our backend to the legacy tasks. A finished task is removed from
    /// the active ones.
    async fn write(&self, writes: &[WriteBack<'_>]) -> Result<Vec<WriteOutcome>, LegacyError>;

    /// A page of the active ids, ours or others', and the cursor of the next page, 0 at the
    /// end.
    async fn worked_on(&self, cursor: u64) -> Result<(u64, Vec<String>), LegacyError>;

    /// Removes finished ids from the active ones.
    async fn forget(&self, ids: &[String]) -> Result<(), LegacyError>;

    /// Exports tasks of ours into the queue, once for each assignment. The results are in the
    /// order of the tasks. An error, for people, means that the id belongs to another program's
    /// data, which stays unchanged.
    async fn offer(&self, tasks: &[ExportedTask]) -> Result<Vec<Result<(), String>>, LegacyError>;

    /// Our exported tasks: id, and seconds since the export.
    async fn offered(&self) -> Result<Vec<(String, u64)>, LegacyError>;

    /// Requeues an exported task that was taken and never begun, with its current data. Does
    /// nothing if it is in the queue unchanged.
    async fn offer_again(&self, task: &ExportedTask) -> Result<(), LegacyError>;

    /// Withdraws exported tasks from the queue and from the list of exported tasks. Their
    /// records stay.
    async fn withdraw(&self, ids: &[String]) -> Result<(), LegacyError>;
}
