use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ApprovalId, TaskId, TenantId, Timestamp};

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

/// A person's leave for one task, bound by a hash to what was shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub tenant: TenantId,
    pub task_id: TaskId,
    pub status: ApprovalStatus,
    /// Which gates asked, in words.
    pub reasons: Vec<String>,
    pub summary: String,
    pub plan: Map<String, Value>,
    /// SHA-256, hex, over type, payload, target and plan.
    pub plan_hash: String,
    pub requested_by: String,
    pub requested_at: Timestamp,
    /// Until when it waits for a decision.
    pub decide_by: Timestamp,
    /// Until when an approval given may be used.
    pub use_by: Option<Timestamp>,
    pub decision: Option<Decision>,
    /// When the store may forget it.
    #[serde(default)]
    pub keep_until: Option<Timestamp>,
    pub trace_id: String,
}
