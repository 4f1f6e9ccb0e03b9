//! Waiting that is nobody's fault: for a freeze, for a governance that can't be reached, or
//! behind a lane's backlog. How often such a task is looked at, and what the wait does to the
//! time limits of approvals.

use std::time::Duration;

use watchbill_domain::{Grant, Held, Status, Task, Timestamp, What};

use super::not_built::NOT_BUILT;
use super::task::{Step, clip};
use super::{Rejection, Rules};

/// A waiting task is looked at after this, then after twice as long each time.
const FIRST_LOOK: Duration = Duration::from_secs(15 * 60);
/// The longest time between two looks, and so the longest that a lost lane message delays a
/// task whose lane had a backlog.
pub const MAX_LOOK: Duration = Duration::from_secs(6 * 60 * 60);
/// What one freeze held resumes within this time after its end, not in one moment.
const MAX_JITTER: Duration = Duration::from_secs(30);
/// The reason for a hold, bytes: as long as the log's note of it.
const MAX_REASON: usize = 200;

/// How long after a look the next one is, where `looks` went before it.
pub(super) fn look_after(looks: u32) -> Duration {
    FIRST_LOOK.saturating_mul(1 << looks.min(10)).min(MAX_LOOK)
}

/// Up to a part of the wait: what waits for a minute is not to wait for half of it more.
fn jitter(random: u64, wait: Duration) -> Duration {
    let most = MAX_JITTER.min(wait / 64).as_millis().max(1) as u64;
    Duration::from_millis(random % most)
}

/// Until when a grant may be used. Time that the task has waited since `waiting_since` counts
/// for it also before a commit has recorded that.
pub fn usable_until(task: &Task, grant: &Grant, now: Timestamp, rules: &Rules) -> Timestamp {
    match task.waiting_since {
        None => grant.use_by,
        Some(since) => moved_on(grant, since, now, rules).1,
    }
}

/// When the grant was given, and its limit moved on by a wait: never beyond
/// [`Rules::use_at_most`], and never to life again.
fn moved_on(
    grant: &Grant,
    since: Timestamp,
    now: Timestamp,
    rules: &Rules,
) -> (Timestamp, Timestamp) {
    // Older builds wrote no moment, and moved no limit.
    let given = grant.approved_at.unwrap_or_else(|| grant.use_by.minus(rules.use_within));
    let since = since.max(given);
    if grant.use_by <= since {
        return (given, grant.use_by);
    }
    let latest = given.plus(rules.use_at_most).max(grant.use_by);
    (given, grant.use_by.plus(now.since(since)).min(latest))
}

/// Moves the limits of the task's grants on by the time that it has waited since it was last
/// recorded.
pub(super) fn settle(step: &mut Step<'_>) {
    let Some(since) = step.task.waiting_since.take() else { return };
    let (now, rules) = (step.facts.now, step.facts.rules);
    for grant in &mut step.task.grants {
        let (given, use_by) = moved_on(grant, since, now, rules);
        grant.approved_at = Some(given);
        grant.use_by = use_by;
    }
    let proved = step.task.approval.as_mut().filter(|approval| approval.proof.is_some());
    if let Some(approval) = proved
        && let Some(grant) =
            step.task.grants.iter().find(|g| Some(&g.hash) == approval.proof.as_ref())
    {
        approval.use_by = Some(grant.use_by);
    }
}

/// Puts the task off. Nothing is logged where that was so before.
pub(super) fn hold(step: &mut Step<'_>, until: Timestamp, why: &str) {
    let now = step.facts.now;
    settle(step);
    let why = clip(why, MAX_REASON);
    let looks = step.task.held.as_ref().map_or(0, |held| held.looks);
    let again = step.task.held.as_ref().is_some_and(|held| held.why == why);
    let end = until.plus(jitter(step.facts.random, until.since(now)));
    // Someone may lift a freeze before its time.
    let resume_at = end.min(now.plus(look_after(looks)));
    if step.task.status == Status::InProgress {
        step.task.lease = None;
        step.task.resume_at = Some(resume_at);
    } else if again {
        step.task.resume_at = Some(resume_at);
    } else {
        step.assign(Some(resume_at));
        step.assigned_event(serde_json::json!({
            "resume_at": resume_at.to_string(), "reason": why,
        }));
        if step.task.not_built {
            return step.says(What::Blocked, "", Some(NOT_BUILT));
        }
    }
    if again {
        step.offers_silently();
    } else {
        step.says(What::Held, "", Some(&why));
    }
    step.task.held = Some(Held { why, looks: looks.saturating_add(1) });
    step.task.waiting_since = Some(now);
}

/// What held the task may be over: it resumes soon, not at its next look.
pub(super) fn wake(step: &mut Step<'_>) -> Result<(), Rejection> {
    let soon = step.facts.now.plus(jitter(step.facts.random, MAX_LOOK));
    let task = &mut step.task;
    let waits = task.held.is_some() && task.lease.is_none();
    if !waits || task.resume_at.is_none_or(|at| at <= soon) {
        return Err(Rejection::NothingDue);
    }
    task.resume_at = Some(soon);
    if let Some(held) = &mut task.held {
        held.looks = 0;
    }
    step.offers_silently();
    Ok(())
}

/// The backlog that excused the task's offers is over: a lost lane message is sent again.
pub(super) fn recall(step: &mut Step<'_>) -> Result<(), Rejection> {
    let now = step.facts.now;
    let task = &step.task;
    let offered = task.status == Status::Assigned && !task.external && task.excused > 0;
    if !offered || task.resume_at.is_some_and(|at| at > now) {
        return Err(Rejection::NothingDue);
    }
    settle(step);
    step.task.excused = 0;
    step.task.resume_at = None;
    step.task.offer_at = Some(now.plus(step.facts.rules.offer_every));
    step.offers_silently();
    Ok(())
}

/// Another lane message goes out that doesn't count as unclaimed. `behind_backlog`: the lane
/// holds others, so the time until now was nobody's fault.
pub(super) fn excuse(step: &mut Step<'_>, behind_backlog: bool) {
    let now = step.facts.now;
    if behind_backlog {
        let waited = step.facts.rules.offer_every.saturating_mul(1 << step.task.offers.min(5));
        let from = step.task.offer_at.map_or(now, |at| at.minus(waited)).min(now);
        step.task.waiting_since.get_or_insert(from);
        settle(step);
        step.task.waiting_since = Some(now);
    }
    let wait = look_after(step.task.excused);
    step.task.excused = step.task.excused.saturating_add(1);
    step.task.offer_at = Some(now.plus(wait));
}
