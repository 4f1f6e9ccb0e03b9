//! Approvals, their votes and decisions.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ApprovalId, Person, TaskId, TenantId, Timestamp};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    Pending,
    Approved,
    Rejected,
    Expired,
    Cancelled,
}

impl ApprovalStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalStatus::Pending => "pending",
            ApprovalStatus::Approved => "approved",
            ApprovalStatus::Rejected => "rejected",
            ApprovalStatus::Expired => "expired",
            ApprovalStatus::Cancelled => "cancelled",
        }
    }
}

/// How an open approval was closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub by: String,
    pub at: Timestamp,
    pub reason: Option<String>,
}

/// The approval of one task, bound by a hash to the approval document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub tenant: TenantId,
    pub task_id: TaskId,
    pub status: ApprovalStatus,
    /// The reasons of the gates that require it, as text.
    pub reasons: Vec<String>,
    pub summary: String,
    /// The approval document that the hash covers, see `approval_document` in governance.
    /// Documents of an older build contain no metadata.
    #[serde(default)]
    pub shown: Map<String, Value>,
    pub plan: Map<String, Value>,
    /// SHA-256, hex, over `shown` in canonical JSON.
    pub plan_hash: String,
    pub requested_by: String,
    /// See [`Task::also_requested_by`](super::Task::also_requested_by).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_requested_by: Vec<String>,
    pub requested_at: Timestamp,
    /// Until when it waits for a decision.
    pub decide_by: Timestamp,
    /// Until when a granted approval may be used.
    pub use_by: Option<Timestamp>,
    pub decision: Option<Decision>,
    /// Salt of the hashes of payload and metadata. It is shown to no one.
    #[serde(default)]
    pub salt: String,
    /// How many people must approve.
    #[serde(default = "one")]
    pub quorum: u8,
    /// Who has approved so far, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<Vote>,
    /// When a reminder about the open approval was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalated_at: Option<Timestamp>,
    /// When the store may delete it.
    #[serde(default)]
    pub keep_until: Option<Timestamp>,
    pub trace_id: String,
}

impl Approval {
    /// Whether a person is one of those who asked for the task.
    pub fn is_requested_by(&self, person: &Person) -> bool {
        let also = self.also_requested_by.iter().map(String::as_str);
        person.is_one_of(also.chain([self.requested_by.as_str()]))
    }
}

/// One approving vote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    pub by: String,
    pub at: Timestamp,
    /// See [`Caller::made_by`](super::Caller::made_by).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

impl Vote {
    pub fn person(&self) -> Person {
        Person::new(&self.by, self.made_by.as_deref())
    }
}

fn one() -> u8 {
    1
}
