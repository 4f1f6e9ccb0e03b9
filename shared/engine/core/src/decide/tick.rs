//! Changes to a task caused by time alone.

use serde_json::json;
use watchbill_domain::{ChangeKind, Lease, Status, TaskLimits, TaskType};

use super::run::record_crashed_run;
use super::task::Transition;
use super::{Rejection, next_due, wait};
use crate::reactions::FOLD;

pub(super) fn tick(transition: &mut Transition<'_>, lane_busy: bool) -> Result<(), Rejection> {
    let now = transition.facts.now;
    match next_due(&transition.task, now) {
        None => {
            let status = transition.task.status;
            return Err(Rejection::Illegal { status, what: "checked again" });
        }
        Some(due) if due > now => return Err(Rejection::NothingDue),
        Some(_) => {}
    }
    sla(transition);
    let lease_over = transition
        .task
        .lease
        .as_ref()
        .is_some_and(|lease| !lease.is_live(now, transition.facts.epoch));
    if lease_over {
        super::budget::settle_abandoned_reservation(transition);
    }
    let outside = transition.task.lease.as_ref().is_some_and(|lease| lease.epoch == Lease::OUTSIDE);
    match transition.task.status {
        Status::InProgress if lease_over && outside => requeue_expired(transition),
        Status::InProgress if transition.task.lease.is_none() || lease_over => {
            enqueue(transition, lane_busy)
        }
        Status::InProgress => postpone(transition),
        Status::Assigned if !transition.task.external => {
            let waits_until = transition.task.resume_at.or(transition.task.offer_at);
            // The backlog that delayed the next task reference is gone.
            let early =
                transition.task.excused > 0 && !lane_busy && transition.task.resume_at.is_none();
            if early || waits_until.is_none_or(|at| at <= now) {
                enqueue(transition, lane_busy);
            }
        }
        // No task reference is enqueued. Clearing a past `resume_at` keeps the task from being
        // due at once.
        Status::Assigned => {
            transition.task.resume_at = transition.task.resume_at.filter(|at| *at > now);
        }
        _ => {}
    }
    Ok(())
}

/// Changes nothing but the time of the next check.
pub(super) fn reschedule_check(transition: &Transition<'_>) -> Result<(), Rejection> {
    match next_due(&transition.task, transition.facts.now) {
        Some(due) if due > transition.facts.now => Ok(()),
        _ => Err(transition.illegal("postponed")),
    }
}

fn sla(transition: &mut Transition<'_>) {
    let now = transition.facts.now;
    let (created_at, priority) = (transition.task.created_at, transition.task.priority);
    let Some(sla) = &mut transition.task.sla else { return };
    let payload = json!({ "deadline": sla.deadline.to_string(), "target": sla.target });
    let warn = !sla.warned && sla.warn_at(created_at) <= now;
    let violate = !sla.violated && sla.deadline <= now;
    sla.warned |= warn || violate;
    sla.violated |= violate;
    let lift = violate && transition.facts.rules.sla.lift && !sla.lifted;
    sla.lifted |= lift;
    if violate {
        transition.log_change(ChangeKind::SlaViolation, "", None);
        transition.event("sla.violation", payload);
        if transition.task.task_type != TaskType::Alert {
            let (title, id) = (transition.task.title(), &transition.task.id);
            transition.event(
                "alert.triggered",
                json!({
                    "alert_type": "sla_violation", "severity": "high", "target": transition.task.id,
                    // One alert task covers them all: a backlog must not double itself.
                    FOLD: format!("{priority} tasks"),
                    "message": format!("{title} ({priority}, task {id}) is past its deadline"),
                }),
            );
        }
    } else if warn {
        transition.log_change(ChangeKind::SlaWarning, "", None);
        transition.event("sla.warning", payload);
    }
    if lift && transition.task.status == Status::Assigned {
        // Another lane needs another task reference.
        transition.assign_elsewhere();
        if transition.task.not_built {
            transition.log_change(ChangeKind::Blocked, "", Some(super::NOT_BUILT));
            transition.assigned_event(json!({}));
        }
    }
}

/// Enqueues another task reference. It counts as an offer unless a backlog or an already
/// started run explains the missing claim; after five unclaimed offers the task fails.
/// References that do not count follow with exponential backoff and are not logged.
fn enqueue(transition: &mut Transition<'_>, lane_busy: bool) {
    // No process consumes that lane.
    if transition.block_if_left_to_nobody() {
        return;
    }
    let now = transition.facts.now;
    let suspended = transition.task.status == Status::InProgress;
    if lane_busy || suspended {
        wait::excuse(transition, lane_busy);
    } else if transition.task.offers >= TaskLimits::OFFERS {
        let agent = transition.task.agent;
        transition
            .fail("", &format!("undeliverable: no {agent} agent has claimed it after five offers"));
        return;
    } else {
        wait::extend_grants(transition);
        transition.task.offers += 1;
        transition.task.excused = 0;
        let wait =
            transition.facts.rules.offer_every.saturating_mul(1 << transition.task.offers.min(5));
        transition.task.offer_at = Some(now.plus(wait));
    }
    if transition.task.resume_at.is_some_and(|at| at <= now) {
        transition.task.resume_at = None;
        if suspended {
            // `resume_at` still marks it as suspended and due: a claim resumes it.
            transition.task.lease = None;
        }
    }
    // For a crashed or still suspended run, only the first reference is logged.
    if transition.task.excused == 0 || suspended && transition.task.excused == 1 {
        transition.log_change(ChangeKind::Offered, "", None);
    } else {
        transition.offers_silently();
    }
}

/// The run is still active: check again later.
fn postpone(transition: &mut Transition<'_>) {
    if transition.task.offer_at.is_some_and(|at| at <= transition.facts.now) {
        transition.task.offer_at =
            Some(transition.facts.now.plus(transition.facts.rules.offer_every));
    }
}

/// An external worker's lease has expired.
fn requeue_expired(transition: &mut Transition<'_>) {
    if !record_crashed_run(transition) {
        return;
    }
    let owner = transition.task.lease.as_ref().map(|l| l.owner.clone()).unwrap_or_default();
    transition.assign(None);
    transition.log_change(ChangeKind::Returned, "", Some(&format!("the lease of {owner} expired")));
    transition.assigned_event(json!({}));
}
