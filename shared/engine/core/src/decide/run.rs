//! Claims and endings of runs, by our own agents and by workers outside.

use std::time::Duration;

use serde_json::json;
use watchbill_domain::{
    Agent, Earned, Lease, LoggedEvent, Note, Outcome, ReputationEvent, Status, TaskLimits, What,
};
use watchbill_redact as redact;

use super::leave::{admit, ask, refuse};
use super::task::{Step, clip};
use super::wait;
use super::{Claimant, Ending, Leave, Proof, Rejection};

pub(super) fn claim(
    step: &mut Step<'_>,
    agent: Agent,
    owner: &str,
    assignment: u32,
    proof: &Proof,
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
        (Status::Assigned, _) => What::Claimed,
        (_, None) => What::Resumed,
        (_, Some(lease)) if lease.is_live(now, step.facts.epoch) => {
            return Err(held_by(lease));
        }
        (_, Some(_)) => What::Reclaimed,
    };
    if what == What::Reclaimed {
        step.task.held = None;
        if !count_lost_run(step) {
            return Ok(());
        }
    }
    if step.block_if_left_to_nobody() {
        return Ok(());
    }
    if !admit(step, proof)? {
        return Ok(());
    }
    let lease = &step.facts.rules.lease;
    let until = now.plus(lease.run + lease.margin);
    let epoch = step.facts.epoch;
    hold(step, Lease { owner: owner.to_owned(), epoch, until, worker: None });
    step.says(what, owner, note_of(proof));
    if what != What::Resumed {
        step.run = Some(step.task.fence);
        step.plain_event("task.started");
    }
    Ok(())
}

/// Counts a run whose executor vanished. False when that was one too many and the task has
/// been ended.
pub(super) fn count_lost_run(step: &mut Step<'_>) -> bool {
    step.task.lost_runs += 1;
    let lost = step.task.lost_runs;
    if lost <= TaskLimits::LOST_RUNS {
        return true;
    }
    step.fail("", &format!("its executor vanished {lost} times in a row; the task is given up"));
    false
}

fn note_of(proof: &Proof) -> Option<&str> {
    match &proof.leave {
        Leave::Granted { note } => note.as_deref(),
        _ => None,
    }
}

fn held_by(lease: &Lease) -> Rejection {
    Rejection::Held { owner: lease.holder(), until: lease.until }
}

fn hold(step: &mut Step<'_>, lease: Lease) {
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

/// Whether a worker outside may begin it, if governance lets it.
fn may_be_claimed(step: &Step<'_>) -> bool {
    step.task.status == Status::Assigned || step.task.not_built
}

/// A claim with a worker's name is that worker's; one without is its key's.
pub(super) fn claim_outside(
    step: &mut Step<'_>,
    by: &Claimant,
    proof: &Proof,
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
            if !admit(step, proof)? {
                return Ok(());
            }
            hold(step, lease);
            step.says(What::Claimed, &holder, note_of(proof));
            step.run = Some(step.task.fence);
            step.event("task.started", json!({ "worker": holder }));
        }
        (Status::InProgress, Some(held))
            if (&held.owner, &held.worker) == (&by.owner, &by.worker) =>
        {
            step.task.lease = Some(lease);
            step.says(What::Renewed, &holder, None);
        }
        (Status::InProgress, Some(held)) => return Err(held_by(held)),
        (status, _) => return Err(Rejection::Illegal { status, what: "started" }),
    }
    Ok(())
}

pub(super) fn end(
    step: &mut Step<'_>,
    fence: u64,
    ending: &Ending,
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
        // The store has been opened anew since: whoever claimed then is a ghost.
        return Err(Rejection::Fenced { asked: fence, current: step.task.fence });
    }
    let owner = lease.owner.clone();
    step.task.notes = notes.to_vec();
    step.task.notes.iter_mut().for_each(|note| redact::string(&mut note.text));
    apply(step, &owner, ending);
    step.outcome = match ending {
        Ending::Suspended { .. } | Ending::Held { .. } => None,
        // What it used stands in the header, from its own settlements.
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

pub(super) fn end_outside(
    step: &mut Step<'_>,
    by: &Claimant,
    ending: &Ending,
    proof: &Proof,
) -> Result<(), Rejection> {
    if let Ending::Suspended { .. } | Ending::Held { .. } = ending {
        // Nothing would wake a worker outside: it keeps its lease, or gives the task up.
        return Err(step.illegal("suspended by a worker outside"));
    }
    step.demand_fence(by.fence.filter(|_| step.task.status.is_open()))?;
    let worker = by.worker.as_ref();
    let mut holder = worker.map_or(by.owner.clone(), |worker| format!("{}/{worker}", by.owner));
    match (step.task.status, &step.task.lease) {
        (Status::Assigned | Status::Blocked, _) if may_be_claimed(step) => {
            if !admit(step, proof)? {
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
    // What it used nobody here saw, and whether it came off is the worker's.
    let earned: Vec<Earned> = ending.earned(&step.facts.rules.reputation).into_iter().collect();
    step.outcome = counted(step, &earned).map(|reputation| Outcome {
        reputation,
        worker: Some(by.owner.clone()),
        ..Outcome::default()
    });
    // The run before may have left its own.
    step.task.outcome.clone_from(&step.outcome);
    Ok(())
}

/// Whether a worker outside may end the run that holds this lease, and under which name. Its
/// fence, where it gave one, is known to be the task's.
fn may_end(lease: &Lease, by: &Claimant) -> Result<String, Rejection> {
    let same_worker = match (&lease.worker, &by.worker) {
        // The fence says which worker it is: nobody else was told of it.
        (Some(_), None) => true,
        (held, said) => held == said,
    };
    if lease.owner != by.owner || !same_worker {
        return Err(held_by(lease));
    }
    if lease.worker.is_some() && by.fence.is_none() {
        return Err(Rejection::NoFence { holder: lease.holder() });
    }
    Ok(lease.holder())
}

/// What of it counts, after the ending has been applied: a task's failure does once, when it has
/// failed for good, however often it is retried. One that counted before is recorded with 0.
fn counted(step: &Step<'_>, earned: &[Earned]) -> Option<Vec<Earned>> {
    let failed = step.task.status == Status::Failed;
    let each = earned.iter().filter_map(|earned| match earned {
        Earned(ReputationEvent::TaskFailure, _) if !failed => None,
        Earned(event @ ReputationEvent::TaskFailure, _) if step.task.failure_counted => {
            Some(Earned(*event, 0))
        }
        earned => Some(*earned),
    });
    let counted: Vec<Earned> = each.collect();
    (!counted.is_empty()).then_some(counted)
}

fn apply(step: &mut Step<'_>, owner: &str, ending: &Ending) {
    wait::settle(step);
    step.task.lost_runs = 0;
    step.task.excused = 0;
    if !matches!(ending, Ending::Held { .. }) {
        step.task.held = None;
    }
    match ending {
        Ending::Succeeded { result } => {
            step.end(Status::Completed);
            step.task.result = Some(result.clone());
            step.task.error = None;
            step.task.question = None;
            step.says(What::Completed, owner, None);
            step.plain_event("task.completed");
        }
        Ending::Failed { error, retry } if step.task.retries < step.task.max_retries => {
            retry_later(step, owner, error, *retry);
        }
        Ending::Failed { error, .. } | Ending::FailedForGood { error } => {
            step.fail(owner, error);
        }
        Ending::Blocked { reason, question } => {
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
            step.says(What::Blocked, owner, Some(reason));
            step.event("task.blocked", json!({ "reason": clip(reason, 500) }));
        }
        Ending::Held { until, why } => {
            wait::hold(step, *until, why);
            step.says(What::Held, owner, Some(why));
        }
        Ending::Asks(asked) => ask(step, owner, asked),
        Ending::Refused { error, earned } => refuse(step, owner, error, *earned),
        Ending::Suspended { resume_at, note } => {
            step.task.lease = None;
            step.task.resume_at = Some((*resume_at).max(step.facts.now));
            step.says(What::Suspended, owner, Some(note));
        }
    }
}

fn retry_later(step: &mut Step<'_>, owner: &str, error: &str, asked: Option<Duration>) {
    let wait = step.facts.rules.retry.wait(step.task.retries, asked, step.facts.random);
    step.task.retries += 1;
    step.task.error = Some(clip(error, TaskLimits::ERROR));
    let resume_at = step.facts.now.plus(wait);
    step.assign(Some(resume_at));
    step.says(What::Retrying, owner, Some(error));
    let (retry, most) = (step.task.retries, step.task.max_retries);
    step.assigned_event(json!({
        "retry_count": retry, "max_retries": most,
        "resume_at": resume_at.to_string(), "error": clip(error, 500),
    }));
}
