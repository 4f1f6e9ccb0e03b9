//! Waiting that does not count against the task: for a freeze, for unreachable governance, or
//! behind a backlog. Sets the check interval and extends the time limits of approvals.

use std::time::Duration;

use watchbill_domain::{ChangeKind, DeferReason, Grant, Status, Task, Timestamp};

use super::not_built::NOT_BUILT;
use super::task::{Transition, clip};
use super::{EngineConfig, Rejection};

/// Delay of a waiting task's first check; exponential backoff follows.
const FIRST_CHECK_DELAY: Duration = Duration::from_secs(15 * 60);
/// The longest time between two checks, and so the longest that a lost lane message delays a
/// task whose lane had a backlog.
pub const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// Tasks deferred by one freeze resume spread over this time after its end, not all at once.
const MAX_JITTER: Duration = Duration::from_secs(30);
/// Maximum length of a deferral reason in bytes: the same as the log's note of it.
const MAX_REASON: usize = 200;

/// The delay of the next check after `looks` earlier ones.
pub(super) fn look_after(looks: u32) -> Duration {
    FIRST_CHECK_DELAY.saturating_mul(1 << looks.min(10)).min(MAX_CHECK_INTERVAL)
}

/// A random fraction of the wait, so that a wait of one minute is not extended by half a minute.
fn jitter(random: u64, wait: Duration) -> Duration {
    let most = MAX_JITTER.min(wait / 64).as_millis().max(1) as u64;
    Duration::from_millis(random % most)
}

/// Until when a grant may be used. Time that the task has waited since `waiting_since` counts
/// even before a commit has recorded it.
pub fn usable_until(task: &Task, grant: &Grant, now: Timestamp, rules: &EngineConfig) -> Timestamp {
    match task.waiting_since {
        None => grant.use_by,
        Some(since) => extended_use_by(grant, since, now, rules).1,
    }
}

/// When the grant was given, and its limit extended by a wait: at most to
/// [`EngineConfig::use_at_most`], and not if it had expired already.
fn extended_use_by(
    grant: &Grant,
    since: Timestamp,
    now: Timestamp,
    rules: &EngineConfig,
) -> (Timestamp, Timestamp) {
    // Older builds stored no approval time and extended no limit.
    let given = grant.approved_at.unwrap_or_else(|| grant.use_by.minus(rules.use_within));
    let since = since.max(given);
    if grant.use_by <= since {
        return (given, grant.use_by);
    }
    let latest = given.plus(rules.use_at_most).max(grant.use_by);
    (given, grant.use_by.plus(now.since(since)).min(latest))
}

/// Extends the limits of the task's grants by the time it has waited since that was last recorded.
pub(super) fn extend_grants(transition: &mut Transition<'_>) {
    let Some(since) = transition.task.waiting_since.take() else { return };
    let (now, rules) = (transition.facts.now, transition.facts.rules);
    for grant in &mut transition.task.grants {
        let (given, use_by) = extended_use_by(grant, since, now, rules);
        grant.approved_at = Some(given);
        grant.use_by = use_by;
    }
    let proved = transition.task.approval.as_mut().filter(|approval| approval.proof.is_some());
    if let Some(approval) = proved
        && let Some(grant) =
            transition.task.grants.iter().find(|g| Some(&g.hash) == approval.proof.as_ref())
    {
        approval.use_by = Some(grant.use_by);
    }
}

/// Defers the task. A repeated reason is not logged.
pub(super) fn hold(transition: &mut Transition<'_>, until: Timestamp, why: &str) {
    let now = transition.facts.now;
    extend_grants(transition);
    let why = clip(why, MAX_REASON);
    let looks = transition.task.held.as_ref().map_or(0, |held| held.looks);
    let again = transition.task.held.as_ref().is_some_and(|held| held.why == why);
    let end = until.plus(jitter(transition.facts.random, until.since(now)));
    // A freeze may be lifted early.
    let resume_at = end.min(now.plus(look_after(looks)));
    if transition.task.status == Status::InProgress {
        transition.task.lease = None;
        transition.task.resume_at = Some(resume_at);
    } else if again {
        transition.task.resume_at = Some(resume_at);
    } else {
        transition.assign(Some(resume_at));
        transition.assigned_event(serde_json::json!({
            "resume_at": resume_at.to_string(), "reason": why,
        }));
        if transition.task.not_built {
            return transition.log_change(ChangeKind::Blocked, "", Some(NOT_BUILT));
        }
    }
    if again {
        transition.offers_silently();
    } else {
        transition.log_change(ChangeKind::Held, "", Some(&why));
    }
    transition.task.held = Some(DeferReason { why, looks: looks.saturating_add(1) });
    transition.task.waiting_since = Some(now);
}

/// The task may no longer be deferred: it resumes soon instead of at its next check.
pub(super) fn wake(transition: &mut Transition<'_>) -> Result<(), Rejection> {
    let soon = transition.facts.now.plus(jitter(transition.facts.random, MAX_CHECK_INTERVAL));
    let task = &mut transition.task;
    let waits = task.held.is_some() && task.lease.is_none();
    if !waits || task.resume_at.is_none_or(|at| at <= soon) {
        return Err(Rejection::NothingDue);
    }
    task.resume_at = Some(soon);
    if let Some(held) = &mut task.held {
        held.looks = 0;
    }
    transition.offers_silently();
    Ok(())
}

/// The backlog that excused the offers has drained: the task reference is enqueued again.
pub(super) fn recall(transition: &mut Transition<'_>) -> Result<(), Rejection> {
    let now = transition.facts.now;
    let task = &transition.task;
    let offered = task.status == Status::Assigned && !task.external && task.excused > 0;
    if !offered || task.resume_at.is_some_and(|at| at > now) {
        return Err(Rejection::NothingDue);
    }
    extend_grants(transition);
    transition.task.excused = 0;
    transition.task.resume_at = None;
    transition.task.offer_at = Some(now.plus(transition.facts.rules.offer_every));
    transition.offers_silently();
    Ok(())
}

/// Enqueues a task reference that does not count as an unclaimed offer. `behind_backlog`: the
/// lane holds other messages, so the time until now does not count against the task.
pub(super) fn excuse(transition: &mut Transition<'_>, behind_backlog: bool) {
    let now = transition.facts.now;
    if behind_backlog {
        let waited =
            transition.facts.rules.offer_every.saturating_mul(1 << transition.task.offers.min(5));
        let from = transition.task.offer_at.map_or(now, |at| at.minus(waited)).min(now);
        transition.task.waiting_since.get_or_insert(from);
        extend_grants(transition);
        transition.task.waiting_since = Some(now);
    }
    let wait = look_after(transition.task.excused);
    transition.task.excused = transition.task.excused.saturating_add(1);
    transition.task.offer_at = Some(now.plus(wait));
}
