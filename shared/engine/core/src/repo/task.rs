//! A task's header as an item, and the items next to it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{LogEntry, Status, Task, TaskId, TenantId, Timestamp};

use super::budget::budget_write;
use super::codec::{Entity, Versioned, encode};
use super::keys;
use crate::decide::{Decided, EngineConfig, next_due};
use crate::ports::{Item, Key, ListEntry, NewItem, Precondition, StoreError, Write};

pub type StoredTask = Versioned<Task>;

impl Entity for Task {
    const KIND: &'static str = "task";

    fn key(&self) -> Key {
        keys::task_key(&self.tenant, &self.id)
    }

    fn list(&self) -> Option<ListEntry> {
        let sort = self.created_at.sortable().into();
        Some(ListEntry { partition: keys::tasks_list(&self.tenant), sort })
    }

    fn list2(&self) -> Option<ListEntry> {
        let partition = match self.status {
            Status::Pending | Status::Blocked | Status::Failed => {
                keys::attention_list(&self.tenant, self.status)
            }
            Status::Assigned if self.external => keys::outside_list(&self.tenant, self.agent),
            Status::Assigned | Status::InProgress
                if self.held.is_some() && self.lease.is_none() =>
            {
                keys::held_list(&self.tenant)
            }
            _ => return None,
        };
        Some(ListEntry { partition, sort: self.created_at.sortable().into() })
    }
}

/// The state of a task's item before a decision.
#[derive(Clone, Copy)]
pub struct PreviousState<'a> {
    pub version: u64,
    pub unknown: Option<&'a Map<String, Value>>,
    pub due: Option<Timestamp>,
}

/// The writes of a decision on a task.
pub struct TaskWrite<'a> {
    pub decided: &'a Decided,
    /// The state that was decided on; `None` for a new task.
    pub before: Option<PreviousState<'a>>,
    pub now: Timestamp,
    pub rules: &'a EngineConfig,
}

impl TaskWrite<'_> {
    /// The writes of one commit: the header, the log's overflow if there is any, and the change
    /// of the tenant's budget.
    pub fn writes(&self) -> Vec<Write> {
        let task = &self.decided.task;
        let unknown = self.before.and_then(|b| b.unknown);
        let item = task_item(task, unknown, self.before.and_then(|b| b.due), self.now, self.rules);
        let expect = match self.before {
            None => Precondition::Absent,
            Some(before) => Precondition::Version(before.version),
        };
        let mut writes = vec![Write::Put { item, expect }];
        if let Some(last) = self.decided.overflow.last() {
            let overflow = Overflow {
                tenant: task.tenant.clone(),
                task: task.id.clone(),
                last: last.version,
                entries: self.decided.overflow.clone(),
                expires: Some(self.rules.keep_beside(task.finished_at, self.now)),
            };
            writes.push(Write::Put { item: encode(&overflow, None), expect: Precondition::Absent });
        }
        writes.extend(
            self.decided.budget.as_ref().and_then(|moved| budget_write(&task.tenant, moved)),
        );
        writes
    }
}

/// The header's item. An existing due time is kept while it is early enough: an early check
/// does no harm, and rewriting the index entry at every change costs more.
pub fn task_item(
    task: &Task,
    unknown: Option<&Map<String, Value>>,
    due_before: Option<Timestamp>,
    now: Timestamp,
    rules: &EngineConfig,
) -> NewItem {
    let mut item = encode(task, unknown);
    let due = next_due(task, now);
    item.due = match (due_before, due) {
        (Some(before), Some(due)) if before > now && before <= due => Some(before),
        (_, due) => due,
    };
    item.expires = task.finished_at.map(|at| at.plus(rules.keep_tasks));
    item
}

/// Log entries that no longer fit in the header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overflow {
    pub tenant: TenantId,
    pub task: TaskId,
    pub last: u64,
    pub entries: Vec<LogEntry>,
    pub expires: Option<Timestamp>,
}

impl Entity for Overflow {
    const KIND: &'static str = "task_log";

    fn key(&self) -> Key {
        let sort = format!("{}{:010}", keys::LOGS, self.last);
        Key::new(keys::task_partition(&self.tenant, &self.task), sort)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

/// A payload or result in an item of its own: its body is the JSON object.
pub fn body_item(
    tenant: &TenantId,
    id: &TaskId,
    sort: &str,
    json: Bytes,
    expires: Timestamp,
) -> NewItem {
    NewItem {
        key: Key::new(keys::task_partition(tenant, id), sort),
        kind: "body".into(),
        schema: 1,
        body: json,
        list: None,
        list2: None,
        due: None,
        expires: Some(expires),
    }
}

pub fn read_body(item: &Item) -> Result<Map<String, Value>, StoreError> {
    serde_json::from_slice(&item.body)
        .map_err(|e| StoreError::Corrupt { key: item.key.clone(), reason: e.to_string() })
}
