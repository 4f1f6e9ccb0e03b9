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
    transition: &mut Transition<'_>,
    agent: Agent,
    owner: &str,
    assignment: u32,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    let now = transition.facts.now;
    if transition.task.status.is_terminal() {
        return Err(Rejection::Illegal { status: transition.task.status, what: "claimed" });
    }
    if assignment < transition.task.assignment {
        let current = transition.task.assignment;
        return Err(Rejection::StaleAssignment { asked: assignment, current });
    }
    transition.demand(&[Status::Assigned, Status::InProgress], "claimed")?;
    if agent != transition.task.agent {
        return Err(Rejection::WrongAgent { agent: transition.task.agent });
    }
    if let Some(at) = transition.task.resume_at.filter(|at| *at > now) {
        return Err(Rejection::NotYet { at });
    }
    let what = match (transition.task.status, &transition.task.lease) {
        (Status::Assigned, _) => ChangeKind::Claimed,
        (_, None) => ChangeKind::Resumed,
        (_, Some(lease)) if lease.is_live(now, transition.facts.epoch) => {
            return Err(held_by(lease));
        }
        (_, Some(_)) => ChangeKind::Reclaimed,
    };
    if what == ChangeKind::Reclaimed {
        transition.task.held = None;
        if !record_crashed_run(transition) {
            return Ok(());
        }
    }
    if transition.block_if_left_to_nobody() {
        return Ok(());
    }
    if !admit(transition, authorization)? {
        return Ok(());
    }
    let lease = &transition.facts.rules.lease;
    let until = now.plus(lease.run + lease.margin);
    let epoch = transition.facts.epoch;
    hold(transition, Lease { owner: owner.to_owned(), epoch, until, worker: None });
    transition.log_change(what, owner, note_of(authorization));
    if what != ChangeKind::Resumed {
        transition.run = Some(transition.task.fence);
        transition.plain_event("task.started");
    }
    Ok(())
}

/// Counts a run whose executor crashed. Returns `false` if that was one too many and the task
/// has failed.
pub(super) fn record_crashed_run(transition: &mut Transition<'_>) -> bool {
    transition.task.lost_runs += 1;
    let lost = transition.task.lost_runs;
    if lost <= TaskLimits::LOST_RUNS {
        return true;
    }
    transition
        .fail("", &format!("its executor vanished {lost} times in a row; the task is given up"));
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

fn hold(transition: &mut Transition<'_>, lease: Lease) {
    wait::extend_grants(transition);
    let task = &mut transition.task;
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
    task.started_at.get_or_insert(transition.facts.now);
    task.lease = Some(lease);
}

/// Whether an external worker may begin it, if governance authorizes it.
fn may_be_claimed(transition: &Transition<'_>) -> bool {
    transition.task.status == Status::Assigned || transition.task.not_built
}

/// A claim with a worker name belongs to that worker, one without to its key.
pub(super) fn claim_external(
    transition: &mut Transition<'_>,
    by: &Claimant,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    let now = transition.facts.now;
    let lease = Lease {
        owner: by.owner.clone(),
        epoch: Lease::OUTSIDE,
        until: now.plus(transition.facts.rules.lease.outside),
        worker: by.worker.clone(),
    };
    let holder = lease.holder();
    transition.demand_fence(by.fence.filter(|_| transition.task.status.is_open()))?;
    match (transition.task.status, &transition.task.lease) {
        (Status::Assigned | Status::Blocked, _) if may_be_claimed(transition) => {
            if let Some(at) = transition.task.resume_at.filter(|at| *at > now) {
                return Err(Rejection::NotYet { at });
            }
            if !admit(transition, authorization)? {
                return Ok(());
            }
            hold(transition, lease);
            transition.log_change(ChangeKind::Claimed, &holder, note_of(authorization));
            transition.run = Some(transition.task.fence);
            transition.event("task.started", json!({ "worker": holder }));
        }
        (Status::InProgress, Some(held))
            if (&held.owner, &held.worker) == (&by.owner, &by.worker) =>
        {
            transition.task.lease = Some(lease);
            transition.log_change(ChangeKind::Renewed, &holder, None);
        }
        (Status::InProgress, Some(held)) => return Err(held_by(held)),
        (status, _) => return Err(Rejection::Illegal { status, what: "started" }),
    }
    Ok(())
}

pub(super) fn end(
    transition: &mut Transition<'_>,
    fence: u64,
    ending: &RunResult,
    events: &[LoggedEvent],
    notes: &[Note],
    outcome: &Outcome,
) -> Result<(), Rejection> {
    if fence != transition.task.fence {
        return Err(Rejection::Fenced { asked: fence, current: transition.task.fence });
    }
    transition.demand(&[Status::InProgress], "ended by a run")?;
    let Some(lease) = &transition.task.lease else {
        return Err(Rejection::Illegal {
            status: transition.task.status,
            what: "ended: no run holds it",
        });
    };
    if lease.epoch != Lease::OUTSIDE && lease.epoch < transition.facts.epoch {
        // The store's epoch has grown since: this claim is void.
        return Err(Rejection::Fenced { asked: fence, current: transition.task.fence });
    }
    let owner = lease.owner.clone();
    transition.task.notes = notes.to_vec();
    transition.task.notes.iter_mut().for_each(|note| redact::string(&mut note.text));
    apply(transition, &owner, ending);
    transition.outcome = match ending {
        RunResult::Suspended { .. } | RunResult::Deferred { .. } => None,
        // The usage is added from the header, where the run's settlements recorded it.
        _ => counted(transition, &outcome.reputation).map(|reputation| Outcome {
            reputation,
            read_only: outcome.read_only,
            ..Outcome::default()
        }),
    };
    transition.task.outcome.clone_from(&transition.outcome);
    transition.events(events);
    Ok(())
}

pub(super) fn end_external(
    transition: &mut Transition<'_>,
    by: &Claimant,
    ending: &RunResult,
    authorization: &VersionedAuthorization,
) -> Result<(), Rejection> {
    if let RunResult::Suspended { .. } | RunResult::Deferred { .. } = ending {
        // No message would wake an external worker: it keeps its lease or gives the task up.
        return Err(transition.illegal("suspended by an external worker"));
    }
    transition.demand_fence(by.fence.filter(|_| transition.task.status.is_open()))?;
    let worker = by.worker.as_ref();
    let mut holder = worker.map_or(by.owner.clone(), |worker| format!("{}/{worker}", by.owner));
    match (transition.task.status, &transition.task.lease) {
        (Status::Assigned | Status::Blocked, _) if may_be_claimed(transition) => {
            if !admit(transition, authorization)? {
                return Ok(());
            }
            transition.task.not_built = false;
            transition.task.fence += 1;
            transition.task.started_at.get_or_insert(transition.facts.now);
            transition.run = Some(transition.task.fence);
            transition.event("task.started", json!({ "worker": holder }));
        }
        (Status::InProgress, Some(lease)) => holder = may_end(lease, by)?,
        (status, _) => return Err(Rejection::Illegal { status, what: "ended" }),
    }
    apply(transition, &holder, ending);
    // An external worker's usage is not visible here, and success is its own report.
    let score_delta: Vec<ScoreDelta> =
        ending.score_delta(&transition.facts.rules.reputation).into_iter().collect();
    transition.outcome = counted(transition, &score_delta).map(|reputation| Outcome {
        reputation,
        worker: Some(by.owner.clone()),
        ..Outcome::default()
    });
    // The run before may have left its own outcome.
    transition.task.outcome.clone_from(&transition.outcome);
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
fn counted(transition: &Transition<'_>, score_delta: &[ScoreDelta]) -> Option<Vec<ScoreDelta>> {
    let failed = transition.task.status == Status::Failed;
    let each = score_delta.iter().filter_map(|score_delta| match score_delta {
        ScoreDelta(ReputationEvent::TaskFailure, _) if !failed => None,
        ScoreDelta(event @ ReputationEvent::TaskFailure, _) if transition.task.failure_counted => {
            Some(ScoreDelta(*event, 0))
        }
        score_delta => Some(*score_delta),
    });
    let counted: Vec<ScoreDelta> = each.collect();
    (!counted.is_empty()).then_some(counted)
}

fn apply(transition: &mut Transition<'_>, owner: &str, ending: &RunResult) {
    wait::extend_grants(transition);
    transition.task.lost_runs = 0;
    transition.task.excused = 0;
    if !matches!(ending, RunResult::Deferred { .. }) {
        transition.task.held = None;
    }
    match ending {
        RunResult::Succeeded { result } => {
            transition.end(Status::Completed);
            transition.task.result = Some(result.clone());
            transition.task.error = None;
            transition.task.question = None;
            transition.log_change(ChangeKind::Completed, owner, None);
            transition.plain_event("task.completed");
        }
        RunResult::Failed { error, retry }
            if transition.task.retries < transition.task.max_retries =>
        {
            retry_later(transition, owner, error, *retry);
        }
        RunResult::Failed { error, .. } | RunResult::FailedForGood { error } => {
            transition.fail(owner, error);
        }
        RunResult::Blocked { reason, question } => {
            transition.task.status = Status::Blocked;
            transition.task.lease = None;
            transition.task.resume_at = None;
            transition.task.offer_at = None;
            transition.task.error = Some(clip(reason, TaskLimits::ERROR));
            transition.task.question = question.clone();
            if let Some(question) = &mut transition.task.question {
                redact::string(&mut question.text);
                question.choices.iter_mut().for_each(redact::string);
            }
            transition.log_change(ChangeKind::Blocked, owner, Some(reason));
            transition.event("task.blocked", json!({ "reason": clip(reason, 500) }));
        }
        RunResult::Deferred { until, why } => {
            wait::hold(transition, *until, why);
            transition.log_change(ChangeKind::Held, owner, Some(why));
        }
        RunResult::ApprovalRequired(asked) => ask(transition, owner, asked),
        RunResult::Denied { error, score_delta } => refuse(transition, owner, error, *score_delta),
        RunResult::Suspended { resume_at, note } => {
            transition.task.lease = None;
            transition.task.resume_at = Some((*resume_at).max(transition.facts.now));
            transition.log_change(ChangeKind::Suspended, owner, Some(note));
        }
    }
}

fn retry_later(transition: &mut Transition<'_>, owner: &str, error: &str, asked: Option<Duration>) {
    let wait =
        transition.facts.rules.retry.wait(transition.task.retries, asked, transition.facts.random);
    transition.task.retries += 1;
    transition.task.error = Some(clip(error, TaskLimits::ERROR));
    let resume_at = transition.facts.now.plus(wait);
    transition.assign(Some(resume_at));
    transition.log_change(ChangeKind::Retrying, owner, Some(error));
    let (retry, most) = (transition.task.retries, transition.task.max_retries);
    transition.assigned_event(json!({
        "retry_count": retry, "max_retries": most,
        "resume_at": resume_at.to_string(), "error": clip(error, 500),
    }));
}
