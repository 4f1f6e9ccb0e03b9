//! What happens to a task because of time alone.

use serde_json::json;
use watchbill_domain::{Lease, Status, TaskLimits, TaskType, What};

use super::run::count_lost_run;
use super::task::Step;
use super::{Rejection, next_due, wait};
use crate::reactions::FOLD;

pub(super) fn tick(step: &mut Step<'_>, lane_busy: bool) -> Result<(), Rejection> {
    let now = step.facts.now;
    match next_due(&step.task, now) {
        None => {
            let status = step.task.status;
            return Err(Rejection::Illegal { status, what: "looked at again" });
        }
        Some(due) if due > now => return Err(Rejection::NothingDue),
        Some(_) => {}
    }
    sla(step);
    let lease_over =
        step.task.lease.as_ref().is_some_and(|lease| !lease.is_live(now, step.facts.epoch));
    if lease_over {
        super::budget::take_back(step);
    }
    let outside = step.task.lease.as_ref().is_some_and(|lease| lease.epoch == Lease::OUTSIDE);
    match step.task.status {
        Status::InProgress if lease_over && outside => give_back(step),
        Status::InProgress if step.task.lease.is_none() || lease_over => offer(step, lane_busy),
        Status::InProgress => postpone(step),
        Status::Assigned if !step.task.external => {
            let waits_until = step.task.resume_at.or(step.task.offer_at);
            // The backlog that put the next offer off is over.
            let early = step.task.excused > 0 && !lane_busy && step.task.resume_at.is_none();
            if early || waits_until.is_none_or(|at| at <= now) {
                offer(step, lane_busy);
            }
        }
        // No pointer is to be offered; without a moment to wait for it is not due at once again.
        Status::Assigned => {
            step.task.resume_at = step.task.resume_at.filter(|at| *at > now);
        }
        _ => {}
    }
    Ok(())
}

/// Nothing changes but when it is looked at again.
pub(super) fn postpone_look(step: &Step<'_>) -> Result<(), Rejection> {
    match next_due(&step.task, step.facts.now) {
        Some(due) if due > step.facts.now => Ok(()),
        _ => Err(step.illegal("postponed")),
    }
}

fn sla(step: &mut Step<'_>) {
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
        step.says(What::SlaViolation, "", None);
        step.event("sla.violation", payload);
        if step.task.task_type != TaskType::Alert {
            let (title, id) = (step.task.title(), &step.task.id);
            step.event(
                "alert.triggered",
                json!({
                    "alert_type": "sla_violation", "severity": "high", "target": step.task.id,
                    // One alert task for all of them: a backlog must not double itself.
                    FOLD: format!("{priority} tasks"),
                    "message": format!("{title} ({priority}, task {id}) is past its deadline"),
                }),
            );
        }
    } else if warn {
        step.says(What::SlaWarning, "", None);
        step.event("sla.warning", payload);
    }
    if lift && step.task.status == Status::Assigned {
        // Another lane, so another pointer.
        step.assign_elsewhere();
        if step.task.not_built {
            step.says(What::Blocked, "", Some(super::NOT_BUILT));
            step.assigned_event(json!({}));
        }
    }
}

/// Another pointer goes out. It counts where nothing else explains that nobody claimed, and
/// five that nobody claims are the end. One that is excused, by a backlog or because a run has
/// begun already, is followed by the next at a growing distance and leaves no trace in the log.
fn offer(step: &mut Step<'_>, lane_busy: bool) {
    // Nobody takes from that lane.
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
            // Still marks it as suspended and due now: a claim resumes it.
            step.task.lease = None;
        }
    }
    // Of a run that vanished or sleeps on, the first offer is told.
    if step.task.excused == 0 || suspended && step.task.excused == 1 {
        step.says(What::Offered, "", None);
    } else {
        step.offers_silently();
    }
}

/// Running as it should: look again later.
fn postpone(step: &mut Step<'_>) {
    if step.task.offer_at.is_some_and(|at| at <= step.facts.now) {
        step.task.offer_at = Some(step.facts.now.plus(step.facts.rules.offer_every));
    }
}

/// A worker outside has not been heard of for too long.
fn give_back(step: &mut Step<'_>) {
    if !count_lost_run(step) {
        return;
    }
    let owner = step.task.lease.as_ref().map(|l| l.owner.clone()).unwrap_or_default();
    step.assign(None);
    step.says(What::Returned, "", Some(&format!("nothing was heard of {owner}")));
    step.assigned_event(json!({}));
}
