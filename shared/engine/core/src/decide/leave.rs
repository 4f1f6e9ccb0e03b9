use serde_json::json;
use watchbill_domain::{
    ApprovalId, ApprovalRef, Earned, ReputationEvent, Status, TaskLimits, TaskType, Timestamp, What,
};

use super::Rejection;
use super::task::{Step, clip};
use super::wait;
use crate::reactions::FOLD;

/// What governance says of a task, and of which version of it that was worked out: on any
/// other it is worked out anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    pub version: u64,
    pub leave: Leave,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// It may run. The note says by what, where that is worth recording.
    Granted { note: Option<String> },
    /// A person is asked first.
    Ask(Asked),
    /// It must not run at all.
    Refused { error: String, earned: Option<Earned> },
    /// Not now.
    Hold { until: Timestamp, why: String },
}

/// An approval that is put up in the same commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub approval: ApprovalId,
    /// How many approvals the task has had, this one included.
    pub n: u32,
    pub reason: String,
    /// See [`asked_hash`](watchbill_governance::asked_hash).
    pub asked: String,
    /// See [`shown`](watchbill_governance::shown).
    pub salt: String,
}

impl Asked {
    /// As the task names it until it is decided on.
    pub(super) fn put_up(&self) -> ApprovalRef {
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

impl Proof {
    pub fn granted(version: u64) -> Self {
        Self { version, leave: Leave::Granted { note: None } }
    }
}

impl Leave {
    pub fn is_granted(&self) -> bool {
        matches!(self, Leave::Granted { .. })
    }
}

/// Acts on what governance says. True: the run may begin.
pub(super) fn admit(step: &mut Step<'_>, proof: &Proof) -> Result<bool, Rejection> {
    if proof.version != step.version() {
        return Err(Rejection::Changed { of: proof.version, current: step.version() });
    }
    match &proof.leave {
        Leave::Granted { .. } => return Ok(true),
        Leave::Ask(asked) => ask(step, "", asked),
        Leave::Refused { error, earned } => refuse(step, "", error, *earned),
        // It stands in no lane: whoever wants it asks again.
        Leave::Hold { why, .. } if step.task.not_built => {
            return Err(Rejection::Withheld { why: clip(why, TaskLimits::ERROR) });
        }
        Leave::Hold { until, why } => wait::hold(step, *until, why),
    }
    Ok(false)
}

/// The task waits for a person's leave.
pub(super) fn ask(step: &mut Step<'_>, by: &str, asked: &Asked) {
    wait::settle(step);
    let task = &mut step.task;
    task.status = Status::Blocked;
    task.held = None;
    task.not_built = false;
    task.lease = None;
    task.resume_at = None;
    task.offer_at = None;
    task.question = None;
    let why = format!("waits for approval {}: {}", asked.approval, asked.reason);
    task.error = Some(clip(&why, TaskLimits::ERROR));
    task.approval = Some(asked.put_up());
    step.says(What::Blocked, by, Some(&asked.reason));
    let payload = json!({ "approval_id": asked.approval, "reason": asked.reason });
    step.event("approval.requested", payload.clone());
    step.event("task.blocked", payload);
}

/// Fails the task for want of leave, with what follows for its agent.
pub(super) fn refuse(step: &mut Step<'_>, by: &str, error: &str, earned: Option<Earned>) {
    step.fail(by, error);
    let agent = step.task.agent.long_name();
    let event = earned.map(|Earned(event, _)| event);
    if let Some(earned) = earned {
        step.outcome.get_or_insert_default().reputation.push(earned);
    }
    step.task.outcome.clone_from(&step.outcome);
    let (event_type, alert_type) = match event {
        Some(ReputationEvent::BudgetExceeded) => ("budget.exceeded", "budget_exceeded"),
        Some(ReputationEvent::ViolationDetected) => ("permission.denied", "violation_detected"),
        _ => ("permission.denied", "permission_denied"),
    };
    step.event(event_type, json!({ "agent": agent, "reason": error, "kind": alert_type }));
    if step.task.task_type == TaskType::Alert {
        return;
    }
    let mut alert = json!({
        "alert_type": alert_type, "severity": "high", "target": step.task.id,
        // One alert task may stand for many of them.
        "message": format!("{agent}, task {}: {error}", step.task.id),
    });
    // What a spent budget or a rule stops comes in numbers; a violation is looked at alone.
    if alert_type != "violation_detected" {
        alert[FOLD] = format!("tasks of {agent}").into();
    }
    step.event("alert.triggered", alert);
}
