//! Approvals in the format of the orchestrator's dashboards.

use serde_json::json;
use watchbill_domain::ApprovalStatus;
use watchbill_wire::{ApprovalView, TaskView};

use super::iso;

/// A task's approval for the orchestrator's dashboards. They know no cancellation, and call an
/// expired approval `timeout`.
pub fn approval_for_peer(view: &ApprovalView, task: Option<&TaskView>) -> String {
    let (status, reason) = match view.status {
        ApprovalStatus::Pending => ("pending", None),
        ApprovalStatus::Approved => ("approved", None),
        ApprovalStatus::Rejected => ("rejected", view.reason.clone()),
        ApprovalStatus::Expired => ("timeout", view.reason.clone()),
        ApprovalStatus::Cancelled => ("rejected", Some("the task was cancelled".to_owned())),
    };
    let task_type = view.task_type.or_else(|| task.map(|task| task.task_type));
    let priority = view.priority.or_else(|| task.map(|task| task.priority));
    let mut approval = json!({
        "approval_id": view.approval_id,
        "task_id": task.map_or(view.task_id.as_str(), TaskView::peer_id),
        "task_type": task_type,
        "priority": priority,
        "reason": view.reasons.join("; "),
        "approver": view.approver,
        "status": status,
        "requested_at": iso(view.requested_at),
        "approved_at": view.decided_at.map(iso),
        // In this format it is the decider, whatever the decision.
        "approved_by": view.approver,
    });
    if is_decided(view) && status != "approved" {
        approval["rejection_reason"] = json!(reason);
    }
    approval.to_string()
}

/// Whether the approval is no longer pending.
pub fn is_decided(view: &ApprovalView) -> bool {
    view.status != ApprovalStatus::Pending
}
