use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_core::service::FullApproval;
use watchbill_domain::{ApprovalId, ApprovalStatus, Priority, TaskId, TaskType, Timestamp, Vote};

use crate::{render_approval, rfc3339, schemas};

/// An approval as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Approval")]
pub struct ApprovalView {
    #[schemars(schema_with = "schemas::id")]
    pub approval_id: ApprovalId,
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    #[schemars(schema_with = "schemas::approval_status")]
    pub status: ApprovalStatus,
    /// The task's, as it was shown. None: of a build that did not show it.
    #[serde(default)]
    #[schemars(schema_with = "schemas::maybe_task_type")]
    pub task_type: Option<TaskType>,
    /// The task's, as it was shown.
    #[serde(default)]
    #[schemars(schema_with = "schemas::maybe_priority")]
    pub priority: Option<Priority>,
    /// What would be done, in words.
    pub summary: String,
    /// Which gates asked.
    pub reasons: Vec<String>,
    pub plan: Map<String, Value>,
    /// SHA-256 over all that was shown, see `shown`.
    pub plan_hash: String,
    pub requested_by: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub requested_at: Timestamp,
    /// Until when it waits for a decision or, once approved, may be used.
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub expires_at: Timestamp,
    /// Who decided, whichever way.
    #[serde(default)]
    pub approver: Option<String>,
    pub approved_by: Option<String>,
    #[serde(default, with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::maybe_time")]
    pub approved_at: Option<Timestamp>,
    pub rejected_by: Option<String>,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::maybe_time")]
    pub decided_at: Option<Timestamp>,
    /// Why it is asked; of one that was rejected or cancelled why that was, if anyone said.
    pub reason: Option<String>,
    pub trace_id: String,
    pub version: u64,
    /// What the approver decides on, and what the hash is over: type, priority, source, requester,
    /// parent, SLA, target, payload and metadata without secrets (of large ones the beginnings,
    /// and names and sizes of the rest), SHA-256 of each of the two as a whole, and plan.
    #[serde(default)]
    pub shown: Map<String, Value>,
    /// How many people must say yes.
    #[serde(default = "one")]
    pub quorum: u8,
    /// Who has said yes so far.
    #[serde(default)]
    pub votes: Vec<VoteView>,
    /// When it was pointed out again that it waits.
    #[serde(default, with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::maybe_time")]
    pub escalated_at: Option<Timestamp>,
    /// All of it for people; where one approval is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Vote")]
pub struct VoteView {
    pub by: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub at: Timestamp,
}

fn one() -> u8 {
    1
}

impl ApprovalView {
    /// The same with its text for people.
    #[must_use]
    pub fn told(self) -> Self {
        let text = Some(render_approval(&self));
        Self { text, ..self }
    }
}

impl From<FullApproval> for ApprovalView {
    fn from(full: FullApproval) -> Self {
        let FullApproval { approval, version } = full;
        let (by, decided_at, said) = match approval.decision {
            Some(decision) => (Some(decision.by), Some(decision.at), decision.reason),
            None => (None, None, None),
        };
        let (approved_by, rejected_by) = match approval.status {
            ApprovalStatus::Approved => (by, None),
            ApprovalStatus::Rejected => (None, by),
            ApprovalStatus::Pending | ApprovalStatus::Expired | ApprovalStatus::Cancelled => {
                (None, None)
            }
        };
        let reason = match approval.status {
            ApprovalStatus::Rejected | ApprovalStatus::Cancelled => said,
            ApprovalStatus::Pending | ApprovalStatus::Approved | ApprovalStatus::Expired => {
                Some(approval.reasons.join("; ")).filter(|reason| !reason.is_empty())
            }
        };
        let shown = |name| approval.shown.get(name).and_then(Value::as_str);
        Self {
            task_type: shown("type").and_then(|text| TaskType::parse(text).ok()),
            priority: shown("priority").and_then(|text| Priority::parse(text).ok()),
            approver: approved_by.clone().or_else(|| rejected_by.clone()),
            approved_at: decided_at.filter(|_| approved_by.is_some()),
            approval_id: approval.id,
            task_id: approval.task_id,
            status: approval.status,
            summary: approval.summary,
            reasons: approval.reasons,
            plan: approval.plan,
            plan_hash: approval.plan_hash,
            requested_by: approval.requested_by,
            requested_at: approval.requested_at,
            expires_at: approval.use_by.unwrap_or(approval.decide_by),
            approved_by,
            rejected_by,
            decided_at,
            reason,
            trace_id: approval.trace_id,
            version,
            shown: approval.shown,
            quorum: approval.quorum,
            votes: approval
                .votes
                .into_iter()
                .map(|Vote { by, at, .. }| VoteView { by, at })
                .collect(),
            escalated_at: approval.escalated_at,
            text: None,
        }
    }
}
