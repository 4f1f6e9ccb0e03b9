//! Parts of a task's header, for readers of the change feed: they see every change and need
//! little of a header.

use std::borrow::Cow;

use serde::Deserialize;
use watchbill_domain::{
    Agent, ChangeKind, Lease, LogEntry, Priority, Status, Task, TaskId, TaskType, TenantId,
    Timestamp,
};

use super::codec::Entity as _;
use crate::ports::{Item, StoreError};

/// The fields needed to build a lane message for a task.
#[derive(Debug, Deserialize)]
pub struct RoutePeek<'a> {
    #[serde(rename = "id", borrow)]
    pub id: Cow<'a, str>,
    #[serde(rename = "t", borrow)]
    pub tenant: Cow<'a, str>,
    #[serde(rename = "pr")]
    pub priority: Priority,
    #[serde(rename = "st")]
    pub status: Status,
    #[serde(rename = "ag")]
    pub agent: Agent,
    #[serde(rename = "n")]
    pub assignment: u32,
    #[serde(rename = "ex", default)]
    pub external: bool,
    #[serde(rename = "le", default)]
    pub lease: Option<LeasePeek>,
    #[serde(rename = "ra", default)]
    pub resume_at: Option<Timestamp>,
    #[serde(rename = "tr", borrow)]
    pub trace_id: Cow<'a, str>,
    #[serde(rename = "eo", default)]
    pub excused: u32,
    #[serde(rename = "ow", default)]
    offered_version: u64,
    #[serde(rename = "sl", default)]
    sla: Option<SlaPeek>,
    #[serde(rename = "lg", default)]
    changes: Vec<ChangeKindPeek>,
}

/// A lease without its owner.
#[derive(Debug, Deserialize)]
pub struct LeasePeek {
    #[serde(rename = "e")]
    epoch: u64,
    #[serde(rename = "u")]
    until: Timestamp,
}

impl LeasePeek {
    pub fn is_live(&self, now: Timestamp, epoch: u64) -> bool {
        Lease::live(self.until, self.epoch, now, epoch)
    }
}

#[derive(Debug, Deserialize)]
struct SlaPeek {
    #[serde(default)]
    lifted: bool,
}

#[derive(Debug, Deserialize)]
struct ChangeKindPeek {
    #[serde(rename = "v")]
    version: u64,
    #[serde(rename = "w")]
    what: ChangeKind,
}

impl<'a> RoutePeek<'a> {
    pub fn of(item: &'a Item) -> Result<Self, StoreError> {
        read(item)
    }

    /// The priority of the lane it is in.
    pub fn lane(&self) -> Priority {
        Task::lane_of(self.priority, self.sla.as_ref().is_some_and(|sla| sla.lifted))
    }

    /// Whether its last change was an offer.
    pub fn is_offered(&self) -> bool {
        self.changes.last().is_some_and(|change| change.what == ChangeKind::Offered)
    }

    /// Whether the write of this version changed only the time of the next check or something
    /// else that is not logged. The image may be of a later version.
    pub fn is_silent(&self, version: u64) -> bool {
        // Entries that left the log were logged changes.
        let in_log = self.changes.first().is_some_and(|first| first.version < version);
        in_log && !self.changes.iter().any(|change| change.version == version)
    }

    /// Whether the write of this version enqueues a task reference that the log does not show.
    pub fn is_offered_silently(&self, version: u64) -> bool {
        self.offered_version == version
    }
}

/// The fields needed to record a task's changes.
#[derive(Debug, Deserialize)]
pub struct LedgerPeek {
    #[serde(rename = "id")]
    pub id: TaskId,
    #[serde(rename = "t")]
    pub tenant: TenantId,
    #[serde(rename = "ty")]
    pub task_type: TaskType,
    #[serde(rename = "pr")]
    pub priority: Priority,
    #[serde(rename = "ag")]
    pub agent: Agent,
    #[serde(rename = "tr")]
    pub trace_id: String,
    #[serde(rename = "ho", default)]
    pub hops: u8,
    #[serde(rename = "ca")]
    pub created_at: Timestamp,
    #[serde(rename = "lg", default)]
    pub log: Vec<LogEntry>,
}

impl LedgerPeek {
    pub fn of(item: &Item) -> Result<Self, StoreError> {
        read(item)
    }
}

fn read<'a, P: Deserialize<'a>>(item: &'a Item) -> Result<P, StoreError> {
    if item.schema > Task::SCHEMA {
        let key = item.key.clone();
        return Err(StoreError::Newer { key, found: item.schema, known: Task::SCHEMA });
    }
    serde_json::from_slice(&item.body)
        .map_err(|error| StoreError::Corrupt { key: item.key.clone(), reason: error.to_string() })
}
