//! The wire format of approvals.

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
    /// The task's type, as in the approval document. Null from builds that did not record it.
    #[serde(default)]
    #[schemars(schema_with = "schemas::optional_task_type")]
    pub task_type: Option<TaskType>,
    /// The task's priority, as in the approval document.
    #[serde(default)]
    #[schemars(schema_with = "schemas::optional_priority")]
    pub priority: Option<Priority>,
    /// A description of what would be done.
    pub summary: String,
    /// Which gates required the approval.
    pub reasons: Vec<String>,
    pub plan: Map<String, Value>,
    /// SHA-256 of the whole approval document, see `shown`.
    pub plan_hash: String,
    pub requested_by: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub requested_at: Timestamp,
    /// Deadline for the decision or, once approved, for the use of the approval.
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub expires_at: Timestamp,
    /// Who decided, whatever the decision was.
    #[serde(default)]
    pub approver: Option<String>,
    pub approved_by: Option<String>,
    #[serde(default, with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub approved_at: Option<Timestamp>,
    pub rejected_by: Option<String>,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub decided_at: Option<Timestamp>,
    /// Why approval is required. For a rejected or cancelled approval: the reason given for
    /// that, if any.
    pub reason: Option<String>,
    pub trace_id: String,
    pub version: u64,
    /// The approval document, which the approver decides on and the hash covers: type,
    /// priority, source, requester, parent, SLA, target, payload and metadata without secrets
    /// (of large ones the beginning, and names and sizes of the rest), the SHA-256 of each of
    /// these two, and the plan.
    #[serde(default)]
    pub shown: Map<String, Value>,
    /// How many people must approve.
    #[serde(default = "one")]
    pub quorum: u8,
    /// Who has approved so far.
    #[serde(default)]
    pub votes: Vec<VoteView>,
    /// When a reminder was sent that the approval still waits.
    #[serde(default, with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub escalated_at: Option<Timestamp>,
    /// The whole approval as readable text. Only set when a single approval is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One person's approval.
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
    /// Returns the view with its readable text.
    #[must_use]
    pub fn with_text(self) -> Self {
        let text = Some(render_approval(&self));
        Self { text, ..self }
    }
}

impl From<FullApproval> for ApprovalView {
    fn from(full: FullApproval) -> Self {
        let FullApproval { approval, version } = full;
        let (by, decided_at, given_reason) = match approval.decision {
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
            ApprovalStatus::Rejected | ApprovalStatus::Cancelled => given_reason,
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
