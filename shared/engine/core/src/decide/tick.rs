//! Changes to a task caused by time alone.

use serde_json::json;
use watchbill_domain::{ChangeKind, Lease, Status, TaskLimits, TaskType};

use super::run::record_crashed_run;
use super::task::Transition;
use super::{Rejection, next_due, wait};
use crate::reactions::FOLD;

pub(super) fn tick(step: &mut Transition<'_>, lane_busy: bool) -> Result<(), Rejection> {
    let now = step.facts.now;
    match next_due(&step.task, now) {
        None => {
            let status = step.task.status;
            return Err(Rejection::Illegal { status, what: "checked again" });
        }
        Some(due) if due > now => return Err(Rejection::NothingDue),
        Some(_) => {}
    }
    sla(step);
    let lease_over =
        step.task.lease.as_ref().is_some_and(|lease| !lease.is_live(now, step.facts.epoch));
    if lease_over {
        super::budget::settle_abandoned_reservation(step);
    }
    let outside = step.task.lease.as_ref().is_some_and(|lease| lease.epoch == Lease::OUTSIDE);
    match step.task.status {
        Status::InProgress if lease_over && outside => requeue_expired(step),
        Status::InProgress if step.task.lease.is_none() || lease_over => enqueue(step, lane_busy),
        Status::InProgress => postpone(step),
        Status::Assigned if !step.task.external => {
            let waits_until = step.task.resume_at.or(step.task.offer_at);
            // The backlog that delayed the next task reference is gone.
            let early = step.task.excused > 0 && !lane_busy && step.task.resume_at.is_none();
            if early || waits_until.is_none_or(|at| at <= now) {
                enqueue(step, lane_busy);
            }
        }
        // No task reference is enqueued. Clearing a past `resume_at` keeps the task from being
        // due at once.
        Status::Assigned => {
            step.task.resume_at = step.task.resume_at.filter(|at| *at > now);
        }
        _ => {}
    }
    Ok(())
}

/// Changes nothing but the time of the next check.
pub(super) fn reschedule_check(step: &Transition<'_>) -> Result<(), Rejection> {
    match next_due(&step.task, step.facts.now) {
        Some(due) if due > step.facts.now => Ok(()),
        _ => Err(step.illegal("postponed")),
    }
}

fn sla(step: &mut Transition<'_>) {
    let now = step.facts.now;
    let (created_at, priority) = (step.task.created_at, step.task.priority);
    let Some(sla) = &mut step.task.sla else { return };
    let payload = json!({ "deadline": sla.deadline.to_string(), "target": sla.target });
    let warn = !sla.warned && sla.warn_at(created_at) <= now;
    let violate = !sla.violated && sla.deadline <= now;
    sla.warned |= warn || violate;
    sla.violated |= violate;
    let lift = violate && step.facts.rules.sla.lift && !sla.lifted;
    sla.lifted |= lift;
    if violate {
        step.log_change(ChangeKind::SlaViolation, "", None);
        step.event("sla.violation", payload);
        if step.task.task_type != TaskType::Alert {
            let (title, id) = (step.task.title(), &step.task.id);
            step.event(
                "alert.triggered",
                json!({
                    "alert_type": "sla_violation", "severity": "high", "target": step.task.id,
                    // One alert task covers them all: a backlog must not double itself.
                    FOLD: format!("{priority} tasks"),
                    "message": format!("{title} ({priority}, task {id}) is past its deadline"),
                }),
            );
        }
    } else if warn {
        step.log_change(ChangeKind::SlaWarning, "", None);
        step.event("sla.warning", payload);
    }
    if lift && step.task.status == Status::Assigned {
        // Another lane needs another task reference.
        step.assign_elsewhere();
        if step.task.not_built {
            step.log_change(ChangeKind::Blocked, "", Some(super::NOT_BUILT));
            step.assigned_event(json!({}));
        }
    }
}

/// Enqueues another task reference. It counts as an offer unless a backlog or an already
/// started run explains the missing claim; after five unclaimed offers the task fails.
/// References that do not count follow with exponential backoff and are not logged.
fn enqueue(step: &mut Transition<'_>, lane_busy: bool) {
    // No process consumes that lane.
    if step.block_if_left_to_nobody() {
        return;
    }
    let now = step.facts.now;
    let suspended = step.task.status == Status::InProgress;
    if lane_busy || suspended {
        wait::excuse(step, lane_busy);
    } else if step.task.offers >= TaskLimits::OFFERS {
        let agent = step.task.agent;
        step.fail("", &format!("undeliverable: no {agent} agent has claimed it after five offers"));
        return;
    } else {
        wait::settle(step);
        step.task.offers += 1;
        step.task.excused = 0;
        let wait = step.facts.rules.offer_every.saturating_mul(1 << step.task.offers.min(5));
        step.task.offer_at = Some(now.plus(wait));
    }
    if step.task.resume_at.is_some_and(|at| at <= now) {
        step.task.resume_at = None;
        if suspended {
            // `resume_at` still marks it as suspended and due: a claim resumes it.
            step.task.lease = None;
        }
    }
    // For a crashed or still suspended run, only the first reference is logged.
    if step.task.excused == 0 || suspended && step.task.excused == 1 {
        step.log_change(ChangeKind::Offered, "", None);
    } else {
        step.offers_silently();
    }
}

/// The run is still active: check again later.
fn postpone(step: &mut Transition<'_>) {
    if step.task.offer_at.is_some_and(|at| at <= step.facts.now) {
        step.task.offer_at = Some(step.facts.now.plus(step.facts.rules.offer_every));
    }
}

/// An external worker's lease has expired.
fn requeue_expired(step: &mut Transition<'_>) {
    if !record_crashed_run(step) {
        return;
    }
    let owner = step.task.lease.as_ref().map(|l| l.owner.clone()).unwrap_or_default();
    step.assign(None);
    step.log_change(ChangeKind::Returned, "", Some(&format!("the lease of {owner} expired")));
    step.assigned_event(json!({}));
}
