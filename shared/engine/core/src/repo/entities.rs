//! The small entities, and their keys and lists.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use watchbill_domain::{
    ApiKey, Approval, ApprovalId, ApprovalStatus, EventId, PublishedEvent, TaskId, TenantId,
    Timestamp,
};
use watchbill_governance::AuditRecord;

use super::codec::Entity;
use super::keys;
use crate::ports::{CounterAdd, Item, Key, ListEntry, Write};

fn entry(partition: std::sync::Arc<str>, at: Timestamp) -> Option<ListEntry> {
    Some(ListEntry { partition, sort: at.sortable().into() })
}

impl Entity for Approval {
    const KIND: &'static str = "approval";

    fn key(&self) -> Key {
        keys::approval_key(&self.tenant, &self.id)
    }

    fn list(&self) -> Option<ListEntry> {
        entry(keys::approvals_list(&self.tenant), self.requested_at)
    }

    fn list2(&self) -> Option<ListEntry> {
        match self.status {
            ApprovalStatus::Pending => {
                entry(keys::open_approvals_list(&self.tenant), self.requested_at)
            }
            _ => None,
        }
    }

    fn due(&self) -> Option<Timestamp> {
        (self.status == ApprovalStatus::Pending).then(|| match self.escalated_at {
            None => crate::decide::escalates_at(self),
            Some(_) => Timestamp::from_millis(self.decide_by.millis() + 1),
        })
    }

    fn expires(&self) -> Option<Timestamp> {
        self.keep_until
    }
}

impl Entity for PublishedEvent {
    const KIND: &'static str = "event";

    fn key(&self) -> Key {
        keys::event_key(&self.tenant, &self.event.event_id)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

impl Entity for AuditRecord {
    const KIND: &'static str = "record";

    fn key(&self) -> Key {
        keys::record_key(&self.tenant, &self.id)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

/// An approval link that a decision has used up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsedLink {
    pub tenant: TenantId,
    pub nonce: String,
    pub approval: ApprovalId,
    pub by: String,
    pub at: Timestamp,
    /// Later than the expiry of the link itself.
    pub expires: Timestamp,
}

impl Entity for UsedLink {
    const KIND: &'static str = "used_link";

    fn key(&self) -> Key {
        keys::link_key(&self.tenant, &self.nonce)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

/// An API key as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyRecord(pub ApiKey);

impl Entity for KeyRecord {
    const KIND: &'static str = "api_key";

    fn key(&self) -> Key {
        keys::api_key(&self.0.hash)
    }

    fn list(&self) -> Option<ListEntry> {
        match self.0.revoked_at {
            None => entry(keys::keys_list(&self.0.tenant), self.0.created_at),
            Some(_) => entry(keys::revoked_keys_list(&self.0.tenant), self.0.created_at),
        }
    }

    fn expires(&self) -> Option<Timestamp> {
        self.0.revoked_at.map(|at| at.plus(KEEP_REVOKED_KEYS))
    }
}

/// How long a revoked key can be read; the ledger records its revocation for good.
pub const KEEP_REVOKED_KEYS: Duration = Duration::from_secs(90 * 86_400);

/// The policy that a process last found in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurrentPolicy {
    /// See [`Policy`](watchbill_governance::Policy).
    pub fingerprint: String,
    pub at: Timestamp,
    /// Another policy that is being recorded for the tenants, page by page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telling: Option<PolicyRollout>,
}

/// How far the records of a policy have come through the tenants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyRollout {
    pub fingerprint: String,
    /// Part of the records' ids, so that each tenant gets one record.
    pub of: String,
    /// The last tenant that has its record.
    pub after: TenantId,
}

impl CurrentPolicy {
    /// The fingerprint before any policy was seen; it is not a hash.
    pub const NONE: &'static str = "-";

    /// Whether no policy has been recorded for all tenants yet.
    pub fn at_first(&self) -> bool {
        self.fingerprint == Self::NONE
    }
}

impl Entity for CurrentPolicy {
    const KIND: &'static str = "policy_mark";

    fn key(&self) -> Key {
        keys::policy_key()
    }
}

/// A slot of a waiting call, shared by processes that may each run one call. It is free if the
/// item is absent or its time is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitSlot {
    pub partition: std::sync::Arc<str>,
    pub number: usize,
    pub until: Timestamp,
}

impl Entity for WaitSlot {
    const KIND: &'static str = "wait";

    fn key(&self) -> Key {
        Key::new(self.partition.clone(), format!("{:04}", self.number))
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

/// How far a round over all tenants has come; there is one round a day or a policy. A new
/// process continues where another stopped, and no tenant is left out however short-lived the
/// processes are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub name: String,
    /// The day, UTC, or the policy's fingerprint.
    pub day: String,
    /// When it was first seen to be due, for a round that has to wait for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Timestamp>,
    /// The last tenant that was processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TenantId>,
    #[serde(default)]
    pub done: bool,
}

impl Entity for Round {
    const KIND: &'static str = "round";

    fn key(&self) -> Key {
        keys::round_key(&self.name)
    }
}

/// Maximum number of children of a task. Each response about the task contains their ids and
/// reads them: this many are 10 KB of JSON and one DynamoDB read.
pub const MAX_CHILDREN: i64 = 256;

const CHILDREN_COUNTED: &str = "children";

fn child_count_key(tenant: &TenantId, parent: &TaskId) -> Key {
    Key::new(keys::task_partition(tenant, parent), keys::CHILD_COUNT)
}

/// Counts a child of a task, in the commit of the child's header.
pub fn child_counted(tenant: &TenantId, parent: &TaskId, expires: Option<Timestamp>) -> Write {
    let ceiling = Some(MAX_CHILDREN);
    Write::Add {
        key: child_count_key(tenant, parent),
        kind: "child_count",
        adds: vec![CounterAdd { name: CHILDREN_COUNTED, delta: 1, ceiling }],
        expires,
    }
}

/// Whether a task has its maximum of children, judged by the key and the item of a conflict.
pub fn has_most_children(
    (tenant, parent): (&TenantId, &TaskId),
    key: &Key,
    item: Option<&Item>,
) -> bool {
    let count = item.and_then(|item| item.counters.get(CHILDREN_COUNTED));
    *key == child_count_key(tenant, parent) && count.is_some_and(|count| *count >= MAX_CHILDREN)
}

/// A child in its parent's partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    pub tenant: TenantId,
    pub parent: TaskId,
    pub child: TaskId,
    pub at: Timestamp,
    /// The parent's end is not known yet, so this is set long after it.
    pub expires: Option<Timestamp>,
}

impl Entity for Child {
    const KIND: &'static str = "child";

    fn key(&self) -> Key {
        let child = watchbill_domain::escape_key_part(self.child.as_str());
        // By time, so that children are in order of creation.
        let sort = format!("{}{}#{child}", keys::CHILDREN, self.at.sortable());
        Key::new(keys::task_partition(&self.tenant, &self.parent), sort)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

/// Name of the projection that counts tasks.
pub const STATS_FOLD: &str = "stats";

/// Name of the projection that keeps scores and levels.
pub const REPUTATION_FOLD: &str = "reputation";

/// A projection of the ledger, up to a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    pub tenant: TenantId,
    pub name: String,
    /// The last ledger batch included in `state`.
    pub seq_applied: u64,
    pub state: Value,
}

impl Entity for Projection {
    const KIND: &'static str = "fold";

    fn key(&self) -> Key {
        keys::fold_key(&self.tenant, &self.name)
    }

    /// The statistics of all tenants are in one list, which is how tenants are found.
    fn list(&self) -> Option<ListEntry> {
        (self.name == STATS_FOLD).then(|| ListEntry {
            partition: keys::TENANTS.into(),
            sort: self.tenant.as_str().into(),
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// When a reaction last ran for a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub tenant: TenantId,
    pub reaction: String,
    pub subject: String,
    pub at: Timestamp,
    /// The event it ran for.
    pub event: EventId,
    /// The task it created, where the events fold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Later events that created no task.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub folded: u64,
    /// The first few tasks that those events are about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folded_tasks: Vec<TaskId>,
    /// The last of those events: one that arrives twice in a row counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<EventId>,
    pub expires: Timestamp,
}

impl Entity for Window {
    const KIND: &'static str = "window";

    fn key(&self) -> Key {
        keys::window_key(&self.tenant, &self.reaction, &self.subject)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}
