//! Claims and endings of runs, by our own agents and by external workers.

use std::time::Duration;

use serde_json::json;
use watchbill_domain::{
    Agent, ChangeKind, Lease, LoggedEvent, Note, Outcome, ReputationEvent, ScoreDelta, Status,
    TaskLimits,
};
use watchbill_redact as redact;

use super::authorization::{admit, ask, refuse};
use super::task::{Transition, clip};
use super::wait;
use super::{Authorization, Claimant, Rejection, RunResult, VersionedAuthorization};

pub(super) fn claim(
    step: &mut Transition<'_>,
    agent: Agent,
    owner: &str,
    assignment: u32,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    let now = step.facts.now;
    if step.task.status.is_terminal() {
        return Err(Rejection::Illegal { status: step.task.status, what: "claimed" });
    }
    if assignment < step.task.assignment {
        let current = step.task.assignment;
        return Err(Rejection::StaleAssignment { asked: assignment, current });
    }
    step.demand(&[Status::Assigned, Status::InProgress], "claimed")?;
    if agent != step.task.agent {
        return Err(Rejection::WrongAgent { agent: step.task.agent });
    }
    if let Some(at) = step.task.resume_at.filter(|at| *at > now) {
        return Err(Rejection::NotYet { at });
    }
    let what = match (step.task.status, &step.task.lease) {
        (Status::Assigned, _) => ChangeKind::Claimed,
        (_, None) => ChangeKind::Resumed,
        (_, Some(lease)) if lease.is_live(now, step.facts.epoch) => {
            return Err(held_by(lease));
        }
        (_, Some(_)) => ChangeKind::Reclaimed,
    };
    if what == ChangeKind::Reclaimed {
        step.task.held = None;
        if !record_crashed_run(step) {
            return Ok(());
        }
    }
    if step.block_if_left_to_nobody() {
        return Ok(());
    }
    if !admit(step, authorization)? {
        return Ok(());
    }
    let lease = &step.facts.rules.lease;
    let until = now.plus(lease.run + lease.margin);
    let epoch = step.facts.epoch;
    hold(step, Lease { owner: owner.to_owned(), epoch, until, worker: None });
    step.log_change(what, owner, note_of(authorization));
    if what != ChangeKind::Resumed {
        step.run = Some(step.task.fence);
        step.plain_event("task.started");
    }
    Ok(())
}

/// Counts a run whose executor crashed. Returns `false` if that was one too many and the task
/// has failed.
pub(super) fn record_crashed_run(step: &mut Transition<'_>) -> bool {
    step.task.lost_runs += 1;
    let lost = step.task.lost_runs;
    if lost <= TaskLimits::LOST_RUNS {
        return true;
    }
    step.fail("", &format!("its executor vanished {lost} times in a row; the task is given up"));
    false
}

fn note_of(authorization: &VersionedAuthorization) -> Option<&str> {
    match &authorization.decision {
        Authorization::Granted { note } => note.as_deref(),
        _ => None,
    }
}

fn held_by(lease: &Lease) -> Rejection {
    Rejection::Held { owner: lease.holder(), until: lease.until }
}

fn hold(step: &mut Transition<'_>, lease: Lease) {
    wait::settle(step);
    let task = &mut step.task;
    if task.status == Status::Assigned {
        task.held = None;
    }
    if task.not_built {
        task.not_built = false;
        task.error = None;
    }
    task.excused = 0;
    task.status = Status::InProgress;
    task.fence += 1;
    task.resume_at = None;
    task.started_at.get_or_insert(step.facts.now);
    task.lease = Some(lease);
}

/// Whether an external worker may begin it, if governance authorizes it.
fn may_be_claimed(step: &Transition<'_>) -> bool {
    step.task.status == Status::Assigned || step.task.not_built
}

/// A claim with a worker name belongs to that worker, one without to its key.
pub(super) fn claim_external(
    step: &mut Transition<'_>,
    by: &Claimant,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    let now = step.facts.now;
    let lease = Lease {
        owner: by.owner.clone(),
        epoch: Lease::OUTSIDE,
        until: now.plus(step.facts.rules.lease.outside),
        worker: by.worker.clone(),
    };
    let holder = lease.holder();
    step.demand_fence(by.fence.filter(|_| step.task.status.is_open()))?;
    match (step.task.status, &step.task.lease) {
        (Status::Assigned | Status::Blocked, _) if may_be_claimed(step) => {
            if let Some(at) = step.task.resume_at.filter(|at| *at > now) {
                return Err(Rejection::NotYet { at });
            }
            if !admit(step, authorization)? {
                return Ok(());
            }
            hold(step, lease);
            step.log_change(ChangeKind::Claimed, &holder, note_of(authorization));
            step.run = Some(step.task.fence);
            step.event("task.started", json!({ "worker": holder }));
        }
        (Status::InProgress, Some(held))
            if (&held.owner, &held.worker) == (&by.owner, &by.worker) =>
        {
            step.task.lease = Some(lease);
            step.log_change(ChangeKind::Renewed, &holder, None);
        }
        (Status::InProgress, Some(held)) => return Err(held_by(held)),
        (status, _) => return Err(Rejection::Illegal { status, what: "started" }),
    }
    Ok(())
}

pub(super) fn end(
    step: &mut Transition<'_>,
    fence: u64,
    ending: &RunResult,
    events: &[LoggedEvent],
    notes: &[Note],
    outcome: &Outcome,
) -> Result<(), Rejection> {
    if fence != step.task.fence {
        return Err(Rejection::Fenced { asked: fence, current: step.task.fence });
    }
    step.demand(&[Status::InProgress], "ended by a run")?;
    let Some(lease) = &step.task.lease else {
        return Err(Rejection::Illegal {
            status: step.task.status,
            what: "ended: no run holds it",
        });
    };
    if lease.epoch != Lease::OUTSIDE && lease.epoch < step.facts.epoch {
        // The store's epoch has grown since: this claim is void.
        return Err(Rejection::Fenced { asked: fence, current: step.task.fence });
    }
    let owner = lease.owner.clone();
    step.task.notes = notes.to_vec();
    step.task.notes.iter_mut().for_each(|note| redact::string(&mut note.text));
    apply(step, &owner, ending);
    step.outcome = match ending {
        RunResult::Suspended { .. } | RunResult::Deferred { .. } => None,
        // The usage is added from the header, where the run's settlements recorded it.
        _ => counted(step, &outcome.reputation).map(|reputation| Outcome {
            reputation,
            read_only: outcome.read_only,
            ..Outcome::default()
        }),
    };
    step.task.outcome.clone_from(&step.outcome);
    step.events(events);
    Ok(())
}

pub(super) fn end_external(
    step: &mut Transition<'_>,
    by: &Claimant,
    ending: &RunResult,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    if let RunResult::Suspended { .. } | RunResult::Deferred { .. } = ending {
        // No message would wake an external worker: it keeps its lease or gives the task up.
        return Err(step.illegal("suspended by an external worker"));
    }
    step.demand_fence(by.fence.filter(|_| step.task.status.is_open()))?;
    let worker = by.worker.as_ref();
    let mut holder = worker.map_or(by.owner.clone(), |worker| format!("{}/{worker}", by.owner));
    match (step.task.status, &step.task.lease) {
        (Status::Assigned | Status::Blocked, _) if may_be_claimed(step) => {
            if !admit(step, authorization)? {
                return Ok(());
            }
            step.task.not_built = false;
            step.task.fence += 1;
            step.task.started_at.get_or_insert(step.facts.now);
            step.run = Some(step.task.fence);
            step.event("task.started", json!({ "worker": holder }));
        }
        (Status::InProgress, Some(lease)) => holder = may_end(lease, by)?,
        (status, _) => return Err(Rejection::Illegal { status, what: "ended" }),
    }
    apply(step, &holder, ending);
    // An external worker's usage is not visible here, and success is its own report.
    let earned: Vec<ScoreDelta> = ending.earned(&step.facts.rules.reputation).into_iter().collect();
    step.outcome = counted(step, &earned).map(|reputation| Outcome {
        reputation,
        worker: Some(by.owner.clone()),
        ..Outcome::default()
    });
    // The run before may have left its own outcome.
    step.task.outcome.clone_from(&step.outcome);
    Ok(())
}

/// Whether an external worker may end the run that holds this lease, and under which name. Its
/// fence, if it gave one, is known to match the task's.
fn may_end(lease: &Lease, by: &Claimant) -> Result<String, Rejection> {
    let same_worker = match (&lease.worker, &by.worker) {
        // The fence identifies the worker: only that worker was given it.
        (Some(_), None) => true,
        (held, given) => held == given,
    };
    if lease.owner != by.owner || !same_worker {
        return Err(held_by(lease));
    }
    if lease.worker.is_some() && by.fence.is_none() {
        return Err(Rejection::NoFence { holder: lease.holder() });
    }
    Ok(lease.holder())
}

/// The score changes that count, once the ending is applied: a task's failure counts once, when
/// it has failed for good, however often it is retried. One that was counted before is recorded
/// with 0.
fn counted(step: &Transition<'_>, earned: &[ScoreDelta]) -> Option<Vec<ScoreDelta>> {
    let failed = step.task.status == Status::Failed;
    let each = earned.iter().filter_map(|earned| match earned {
        ScoreDelta(ReputationEvent::TaskFailure, _) if !failed => None,
        ScoreDelta(event @ ReputationEvent::TaskFailure, _) if step.task.failure_counted => {
            Some(ScoreDelta(*event, 0))
        }
        earned => Some(*earned),
    });
    let counted: Vec<ScoreDelta> = each.collect();
    (!counted.is_empty()).then_some(counted)
}

fn apply(step: &mut Transition<'_>, owner: &str, ending: &RunResult) {
    wait::settle(step);
    step.task.lost_runs = 0;
    step.task.excused = 0;
    if !matches!(ending, RunResult::Deferred { .. }) {
        step.task.held = None;
    }
    match ending {
        RunResult::Succeeded { result } => {
            step.end(Status::Completed);
            step.task.result = Some(result.clone());
            step.task.error = None;
            step.task.question = None;
            step.log_change(ChangeKind::Completed, owner, None);
            step.plain_event("task.completed");
        }
        RunResult::Failed { error, retry } if step.task.retries < step.task.max_retries => {
            retry_later(step, owner, error, *retry);
        }
        RunResult::Failed { error, .. } | RunResult::FailedForGood { error } => {
            step.fail(owner, error);
        }
        RunResult::Blocked { reason, question } => {
            step.task.status = Status::Blocked;
            step.task.lease = None;
            step.task.resume_at = None;
            step.task.offer_at = None;
            step.task.error = Some(clip(reason, TaskLimits::ERROR));
            step.task.question = question.clone();
            if let Some(question) = &mut step.task.question {
                redact::string(&mut question.text);
                question.choices.iter_mut().for_each(redact::string);
            }
            step.log_change(ChangeKind::Blocked, owner, Some(reason));
            step.event("task.blocked", json!({ "reason": clip(reason, 500) }));
        }
        RunResult::Deferred { until, why } => {
            wait::hold(step, *until, why);
            step.log_change(ChangeKind::Held, owner, Some(why));
        }
        RunResult::ApprovalRequired(asked) => ask(step, owner, asked),
        RunResult::Denied { error, earned } => refuse(step, owner, error, *earned),
        RunResult::Suspended { resume_at, note } => {
            step.task.lease = None;
            step.task.resume_at = Some((*resume_at).max(step.facts.now));
            step.log_change(ChangeKind::Suspended, owner, Some(note));
        }
    }
}

fn retry_later(step: &mut Transition<'_>, owner: &str, error: &str, asked: Option<Duration>) {
    let wait = step.facts.rules.retry.wait(step.task.retries, asked, step.facts.random);
    step.task.retries += 1;
    step.task.error = Some(clip(error, TaskLimits::ERROR));
    let resume_at = step.facts.now.plus(wait);
    step.assign(Some(resume_at));
    step.log_change(ChangeKind::Retrying, owner, Some(error));
    let (retry, most) = (step.task.retries, step.task.max_retries);
    step.assigned_event(json!({
        "retry_count": retry, "max_retries": most,
        "resume_at": resume_at.to_string(), "error": clip(error, 500),
    }));
}
