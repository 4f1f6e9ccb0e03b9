//! Applies governance's authorization to a task.

use serde_json::json;
use watchbill_domain::{
    ApprovalId, ApprovalRef, ChangeKind, ReputationEvent, ScoreDelta, Status, TaskLimits, TaskType,
    Timestamp,
};

use super::Rejection;
use super::task::{Transition, clip};
use super::wait;
use crate::reactions::FOLD;

/// Governance's authorization of a task, and the task version it was evaluated for. For any
/// other version it must be evaluated again.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionedAuthorization {
    pub version: u64,
    pub decision: Authorization,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Authorization {
    /// The run is authorized. The note names the basis where that is worth recording.
    Granted { note: Option<String> },
    /// An approval is required first.
    ApprovalRequired(ApprovalRequest),
    /// The run is not authorized at all.
    Denied { error: String, score_delta: Option<ScoreDelta> },
    /// The run is deferred.
    Deferred { until: Timestamp, why: String },
}

/// An approval that is created in the same commit.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalRequest {
    pub approval: ApprovalId,
    /// How many approvals the task has had, this one included.
    pub n: u32,
    pub reason: String,
    /// See [`requirements_hash`](watchbill_governance::requirements_hash).
    pub asked: String,
    /// See [`approval_document`](watchbill_governance::approval_document).
    pub salt: String,
}

impl ApprovalRequest {
    /// The task's reference to the approval until it is decided.
    pub(super) fn to_ref(&self) -> ApprovalRef {
        ApprovalRef {
            id: self.approval.clone(),
            n: self.n,
            proof: None,
            approved_by: None,
            use_by: None,
            asked: self.asked.clone(),
            salt: self.salt.clone(),
        }
    }
}

impl VersionedAuthorization {
    pub fn granted(version: u64) -> Self {
        Self { version, decision: Authorization::Granted { note: None } }
    }
}

impl Authorization {
    pub fn is_granted(&self) -> bool {
        matches!(self, Authorization::Granted { .. })
    }
}

/// Applies the authorization. Returns `true` if the run may begin.
pub(super) fn admit(
    transition: &mut Transition<'_>,
    authorization: &VersionedAuthorization,
) -> Result<bool, Rejection> {
    if authorization.version != transition.version() {
        return Err(Rejection::Changed {
            of: authorization.version,
            current: transition.version(),
        });
    }
    match &authorization.decision {
        Authorization::Granted { .. } => return Ok(true),
        Authorization::ApprovalRequired(asked) => ask(transition, "", asked),
        Authorization::Denied { error, score_delta } => refuse(transition, "", error, *score_delta),
        // The task is in no lane: the worker has to ask again.
        Authorization::Deferred { why, .. } if transition.task.not_built => {
            return Err(Rejection::NotAuthorized { why: clip(why, TaskLimits::ERROR) });
        }
        Authorization::Deferred { until, why } => wait::hold(transition, *until, why),
    }
    Ok(false)
}

/// Blocks the task until its approval is decided.
pub(super) fn ask(transition: &mut Transition<'_>, by: &str, asked: &ApprovalRequest) {
    wait::extend_grants(transition);
    let task = &mut transition.task;
    task.status = Status::Blocked;
    task.held = None;
    task.not_built = false;
    task.lease = None;
    task.resume_at = None;
    task.offer_at = None;
    task.question = None;
    let why = format!("waits for approval {}: {}", asked.approval, asked.reason);
    task.error = Some(clip(&why, TaskLimits::ERROR));
    task.approval = Some(asked.to_ref());
    transition.log_change(ChangeKind::Blocked, by, Some(&asked.reason));
    let payload = json!({ "approval_id": asked.approval, "reason": asked.reason });
    transition.event("approval.requested", payload.clone());
    transition.event("task.blocked", payload);
}

/// Fails the unauthorized task, with the score change and the alert for its agent.
pub(super) fn refuse(
    transition: &mut Transition<'_>,
    by: &str,
    error: &str,
    score_delta: Option<ScoreDelta>,
) {
    transition.fail(by, error);
    let agent = transition.task.agent.long_name();
    let event = score_delta.map(|ScoreDelta(event, _)| event);
    if let Some(score_delta) = score_delta {
        transition.outcome.get_or_insert_default().reputation.push(score_delta);
    }
    transition.task.outcome.clone_from(&transition.outcome);
    let (event_type, alert_type) = match event {
        Some(ReputationEvent::BudgetExceeded) => ("budget.exceeded", "budget_exceeded"),
        Some(ReputationEvent::ViolationDetected) => ("permission.denied", "violation_detected"),
        _ => ("permission.denied", "permission_denied"),
    };
    transition.event(event_type, json!({ "agent": agent, "reason": error, "kind": alert_type }));
    if transition.task.task_type == TaskType::Alert {
        return;
    }
    let mut alert = json!({
        "alert_type": alert_type, "severity": "high", "target": transition.task.id,
        // One alert task may cover many of them.
        "message": format!("{agent}, task {}: {error}", transition.task.id),
    });
    // A spent budget or a rule stops many tasks; each violation is reviewed on its own.
    if alert_type != "violation_detected" {
        alert[FOLD] = format!("tasks of {agent}").into();
    }
    transition.event("alert.triggered", alert);
}
