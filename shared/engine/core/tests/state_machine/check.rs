//! Invariants of every change.

use std::collections::BTreeSet;
use std::time::Duration;

use watchbill_core::decide::{Authorization, VersionedAuthorization};
use watchbill_core::decide::{
    Claimant, Command, Decided, DecisionContext, EngineConfig, MAX_CHECK_INTERVAL, RunResult,
    next_due,
};
use watchbill_domain::{ChangeKind, Lease, LogEntry, Status, Task, TaskLimits, TaskType};

use super::{budget, rows};

pub struct Before<'a> {
    pub task: &'a Task,
    pub version: u64,
}

macro_rules! hold {
    ($holds:expr, $($words:tt)+) => { if !$holds { return Err(format!($($words)+)); } };
}

/// Whether the command must be accepted (`Some(true)`), must be rejected (`Some(false)`), or is
/// left to the detailed rules. Derived from the contract alone.
pub fn wanted(
    task: &Task,
    version: u64,
    command: &Command,
    facts: &DecisionContext<'_>,
) -> Option<bool> {
    if task.status.is_terminal() {
        return Some(false);
    }
    let fresh = |authorization: &VersionedAuthorization| authorization.version == version;
    let held = task.lease.as_ref().is_some_and(|lease| {
        lease.until > facts.now && (lease.epoch == Lease::OUTSIDE || lease.epoch >= facts.epoch)
    });
    let early = task.resume_at.is_some_and(|at| at > facts.now);
    let in_lane = task.status == Status::Assigned;
    let running = task.status == Status::InProgress;
    let asks = task.approval.as_ref().is_some_and(|approval| approval.proof.is_none());
    let stale = |fence: Option<u64>| fence.is_some_and(|fence| fence != task.fence);
    // A claim without a worker name is its key's; one with it is that worker's, and ends only
    // with its fence.
    let lease = task.lease.as_ref().filter(|_| running);
    let holds =
        |by: &Claimant| lease.is_some_and(|l| (&l.owner, &l.worker) == (&by.owner, &by.worker));
    let may_end = |by: &Claimant| match lease.map(|lease| (lease, &lease.worker)) {
        Some((lease, Some(worker))) => {
            let said = by.worker.as_ref().unwrap_or(worker);
            (&lease.owner, worker) == (&by.owner, said) && by.fence.is_some()
        }
        Some((lease, None)) => lease.owner == by.owner && by.worker.is_none(),
        None => false,
    };
    Some(match command {
        Command::Create(_) => false,
        Command::Cancel { fence, .. } => !stale(*fence),
        Command::Approve { .. } => asks && matches!(task.status, Status::Pending | Status::Blocked),
        Command::Reject { .. } | Command::Expire if task.status == Status::Pending => true,
        Command::Reject { .. } | Command::Expire if in_lane || running => false,
        Command::Claim { agent, assignment, authorization, .. } => {
            // Given up before governance is checked.
            if running && task.lease.is_some() && task.lost_runs == TaskLimits::LOST_RUNS {
                return None;
            }
            (in_lane || running && !held)
                && fresh(authorization)
                && *agent == task.agent
                && *assignment >= task.assignment
                && !early
        }
        Command::ClaimExternal { by, authorization } => {
            !stale(by.fence) && (in_lane && !early && fresh(authorization) || holds(by))
        }
        Command::End { fence, .. } => {
            let ghost = |lease: &Lease| lease.epoch != Lease::OUTSIDE && lease.epoch < facts.epoch;
            running && *fence == task.fence && task.lease.as_ref().is_some_and(|l| !ghost(l))
        }
        Command::EndExternal {
            ending: RunResult::Suspended { .. } | RunResult::Deferred { .. },
            ..
        } => false,
        Command::EndExternal { by, authorization, .. } => {
            !stale(by.fence) && (in_lane && fresh(authorization) || may_end(by))
        }
        Command::Answer { .. } => task.status == Status::Blocked && !asks,
        Command::RetryNow { .. } => match task.status {
            Status::Blocked => !asks,
            Status::Assigned => task.resume_at.is_some(),
            Status::InProgress => task.lease.is_none() && task.resume_at.is_some(),
            _ => false,
        },
        Command::Reserve { .. }
        | Command::Sent { .. }
        | Command::Settle { .. }
        | Command::Release { .. } => budget::wanted(task, command, facts),
        Command::Reroute { agent } => in_lane && *agent != task.agent,
        Command::Override { .. } => true,
        Command::Vote { .. } | Command::Escalate { .. } => {
            matches!(task.status, Status::Pending | Status::Blocked)
        }
        Command::Tick { .. } => next_due(task, facts.now).is_some_and(|due| due <= facts.now),
        Command::Postpone => next_due(task, facts.now).is_some_and(|due| due > facts.now),
        Command::Wake => {
            let soon = facts.now.plus(Duration::from_secs(30));
            let later = task.resume_at.is_some_and(|at| at > soon);
            if !later {
                return None;
            }
            task.held.is_some() && task.lease.is_none()
        }
        Command::Recall => in_lane && !task.external && task.excused > 0 && !early,
        _ => return None,
    })
}

/// Governance's authorization, if it is not granted.
pub fn withheld(command: &Command) -> Option<&Authorization> {
    match command {
        Command::Claim { authorization, .. }
        | Command::ClaimExternal { authorization, .. }
        | Command::EndExternal { authorization, .. } => {
            Some(&authorization.decision).filter(|decision| !decision.is_granted())
        }
        _ => None,
    }
}

/// The same, if the command got as far as the authorization.
pub fn held_up<'a>(old: &Task, new: &Task, command: &'a Command) -> Option<&'a Authorization> {
    let taken = new.fence != old.fence;
    let asked = old.status == Status::Assigned || matches!(command, Command::Claim { .. });
    let lost = new.lost_runs > TaskLimits::LOST_RUNS;
    withheld(command).filter(|_| asked && !taken && !lost)
}

pub fn created(
    decided: &Decided,
    wanted: Status,
    facts: &DecisionContext<'_>,
) -> Result<(), String> {
    let task = &decided.task;
    hold!(decided.version == 1 && task.log.len() == 1, "a new task is not at version 1");
    hold!(task.status == wanted, "created {}, wanted {wanted}", task.status);
    hold!(task.assignment == u32::from(wanted == Status::Assigned), "assignment at creation");
    hold!(task.created_at == facts.now && task.fence == 0, "created_at or fence at creation");
    let mut events = vec!["task.created"];
    if wanted == Status::Pending {
        events.push("approval.requested");
    }
    hold!(types(&task.log[0]) == events, "events of creation: {:?}", types(&task.log[0]));
    standing(task, facts)
}

fn types(entry: &LogEntry) -> Vec<&str> {
    entry.events.iter().map(|event| event.event_type.as_str()).collect()
}

pub fn change(
    before: &Before<'_>,
    command: &Command,
    decided: &Decided,
    facts: &DecisionContext<'_>,
) -> Result<(), String> {
    let (old, new) = (before.task, &decided.task);
    hold!(
        decided.version == before.version + 1,
        "version {} → {}",
        before.version,
        decided.version
    );
    let Some(entry) = new.log.last() else { return Err("the log is empty".into()) };
    standing(new, facts)?;
    grants(old, new, command, facts)?;
    if entry.version < decided.version {
        return silent(old, command, decided, facts);
    }
    let row = (old.status, new.status, entry.what);
    hold!(rows::rows(command).contains(&row), "illegal: {row:?}");
    let changed = (old.status != new.status).then_some(old.status);
    hold!(entry.version == decided.version && entry.at == facts.now, "entry {entry:?}");
    hold!((entry.status, entry.before) == (new.status, changed), "entry {entry:?}");
    unchanged(old, new)?;
    counted(old, new, command, entry)?;
    events(old, new, command, entry)?;
    log(before, decided)?;
    if let Command::Tick { .. } = command {
        let due = next_due(new, facts.now);
        hold!(due.is_none_or(|at| at > facts.now), "still due at {due:?} after the look");
    }
    budget::change(old, command, decided, facts)
}

/// Changes that are not logged: the time of the next check, and what goes with it.
fn silent(
    old: &Task,
    command: &Command,
    decided: &Decided,
    facts: &DecisionContext<'_>,
) -> Result<(), String> {
    let new = &decided.task;
    let again =
        matches!(withheld(command), Some(Authorization::Deferred { .. })) && old.held.is_some();
    let look = matches!(
        command,
        Command::Tick { .. } | Command::Postpone | Command::Wake | Command::Recall
    );
    hold!(look || again, "nothing was told");
    hold!(decided.overflow.is_empty() && decided.budget.is_none(), "more was written");
    let mut wanted = old.clone();
    wanted.resume_at = new.resume_at;
    wanted.offer_at = new.offer_at;
    wanted.excused = new.excused;
    wanted.offered_version = new.offered_version;
    wanted.held.clone_from(&new.held);
    wanted.waiting_since = new.waiting_since;
    wanted.grants.clone_from(&new.grants);
    if let (Some(wanted), Some(new)) = (&mut wanted.approval, &new.approval) {
        wanted.use_by = new.use_by;
    }
    if old.status == Status::InProgress && new.resume_at != old.resume_at {
        wanted.lease = None;
    }
    hold!(wanted == *new, "changed without a word: {old:?} → {new:?}");
    hold!(old.held.is_some() == new.held.is_some(), "held or let go without a word");
    if let Command::Tick { .. } = command {
        let due = next_due(new, facts.now);
        hold!(due.is_some_and(|at| at > facts.now), "still due at {due:?} after the look");
        let offered = new.offered_version == decided.version;
        let wait = new.offer_at.map_or(Duration::ZERO, |at| at.since(facts.now));
        hold!(!offered || wait >= Duration::from_secs(15 * 60), "offered again in {wait:?}");
        hold!(!offered || wait <= MAX_CHECK_INTERVAL, "offered again only in {wait:?}");
    }
    Ok(())
}

/// Only a wait that does not count against the task extends the limit of a grant.
fn grants(
    old: &Task,
    new: &Task,
    command: &Command,
    facts: &DecisionContext<'_>,
) -> Result<(), String> {
    for grant in &new.grants {
        let Some(before) = old.grants.iter().find(|old| old.hash == grant.hash) else { continue };
        if matches!(command, Command::Approve { .. }) {
            continue;
        }
        let moved = grant.use_by.since(before.use_by);
        hold!(grant.use_by >= before.use_by, "the limit of a grant came nearer");
        if moved.is_zero() {
            continue;
        }
        let busy = matches!(command, Command::Tick { lane_busy: true });
        hold!(busy || old.waiting_since.is_some(), "moved by {moved:?} without a wait");
        let since = old.waiting_since.unwrap_or(old.created_at);
        hold!(moved <= facts.now.since(since), "moved by {moved:?}, waited since {since}");
        let given = before.approved_at.ok_or("a grant without its moment")?;
        hold!(grant.use_by <= given.plus(facts.rules.use_at_most), "good for over a day");
        hold!(old.waiting_since.is_none_or(|at| before.use_by > at), "a dead grant came to life");
    }
    Ok(())
}

/// Invariants of a task, whatever happened.
fn standing(task: &Task, facts: &DecisionContext<'_>) -> Result<(), String> {
    let over = task.status.is_terminal();
    hold!(task.finished_at.is_some() == over, "finished_at {:?}", task.finished_at);
    hold!(next_due(task, facts.now).is_none() == over, "open means due");
    hold!(task.lease.is_none() || task.status == Status::InProgress, "a lease while not running");
    hold!(!over || task.resume_at.is_none() && task.offer_at.is_none(), "over, and waits");
    hold!(task.result.is_some() == (task.status == Status::Completed), "result {:?}", task.result);
    hold!(task.status != Status::Failed || task.error.is_some(), "failed without an error");
    hold!(task.error.as_ref().is_none_or(|e| e.len() <= TaskLimits::ERROR + 3), "long error");
    hold!(task.retries <= task.max_retries, "{} of {} retries", task.retries, task.max_retries);
    hold!(task.log.len() <= TaskLimits::LOG, "{} entries in the header", task.log.len());
    let waits = matches!(task.status, Status::Pending | Status::Blocked);
    hold!(!waits || task.resume_at.is_none() && task.offer_at.is_none(), "offered while waiting");
    let offered = task.status == Status::Assigned && !task.external;
    hold!(!offered || task.offer_at.is_some(), "assigned, and nobody offers it again");
    let held_back = task.lease.is_some() && task.resume_at.is_some();
    hold!(!held_back, "held and waiting at once");
    let open = matches!(task.status, Status::Assigned | Status::InProgress);
    hold!(open || task.held.is_none() && task.waiting_since.is_none(), "waits for two things");
    Ok(())
}

fn unchanged(old: &Task, new: &Task) -> Result<(), String> {
    let same = (&old.id, &old.tenant, old.task_type, old.priority, &old.source, old.agent)
        == (&new.id, &new.tenant, new.task_type, new.priority, &new.source, new.agent)
        && (old.created_at, &old.created_by, &old.trace_id, &old.parent, old.hops)
            == (new.created_at, &new.created_by, &new.trace_id, &new.parent, new.hops)
        && (&old.metadata, &old.payload, &old.body_hash, old.max_retries)
            == (&new.metadata, &new.payload, &new.body_hash, new.max_retries);
    hold!(same, "something changed that never does: {old:?} → {new:?}");
    hold!(
        old.started_at.is_none() || new.started_at == old.started_at,
        "started_at {:?} → {:?}",
        old.started_at,
        new.started_at
    );
    match (&old.sla, &new.sla) {
        (Some(old), Some(new)) => {
            let same = (&old.target, old.deadline, old.alert_threshold)
                == (&new.target, new.deadline, new.alert_threshold);
            let kept = old.warned <= new.warned
                && old.violated <= new.violated
                && old.lifted <= new.lifted;
            hold!(same && kept, "SLA {old:?} → {new:?}");
        }
        (old, new) => hold!(old == new, "an SLA came or went"),
    }
    let n = old.approval.as_ref().map_or(0, |approval| approval.n);
    match (&old.approval, &new.approval) {
        // Created again, for the next decision.
        (_, Some(next)) if next.n == n + 1 => {
            hold!(next.proof.is_none() && new.status == Status::Blocked, "asked, and not blocked");
        }
        (Some(old), Some(new)) => {
            hold!(old.id == new.id && old.n == new.n, "another approval");
            let same = (&old.proof, &old.approved_by, &old.asked, &old.salt)
                == (&new.proof, &new.approved_by, &new.asked, &new.salt);
            hold!(old.proof.is_none() || same && new.use_by >= old.use_by, "a proof changed");
        }
        (old, new) => hold!(old == new, "an approval came or went"),
    }
    Ok(())
}

fn counted(old: &Task, new: &Task, command: &Command, entry: &LogEntry) -> Result<(), String> {
    let what = entry.what;
    let held = held_up(old, new, command);
    let one_step = held.is_none()
        && old.status == Status::Assigned
        && matches!(command, Command::EndExternal { .. });
    let taken = matches!(what, ChangeKind::Claimed | ChangeKind::Reclaimed | ChangeKind::Resumed)
        || one_step;
    hold!(new.fence == old.fence + u64::from(taken), "fence {} → {}", old.fence, new.fence);
    let lifted = |task: &Task| task.sla.as_ref().is_some_and(|sla| sla.lifted);
    let moved = lifted(new) && !lifted(old) && old.status == Status::Assigned;
    let assigned = match what {
        ChangeKind::Held => u32::from(old.status == Status::Assigned),
        ChangeKind::Overridden => new.assignment - old.assignment,
        _ => u32::from(rows::assigns(what)) + u32::from(moved),
    };
    hold!(assigned <= 1, "{assigned} assignments at once");
    hold!(
        new.assignment == old.assignment + assigned,
        "assignment {} → {}",
        old.assignment,
        new.assignment
    );
    let retried = u32::from(what == ChangeKind::Retrying);
    hold!(new.retries == old.retries + retried, "retries {} → {}", old.retries, new.retries);
    if let Command::End { ending, .. } | Command::EndExternal { ending, .. } = command
        && held.is_none()
    {
        let again = matches!(ending, RunResult::Failed { .. }) && old.retries < old.max_retries;
        hold!((what == ChangeKind::Retrying) == again, "{what:?} after {} retries", old.retries);
        hold!(new.lost_runs == 0, "an ending leaves lost runs");
    }
    let vanished = matches!(what, ChangeKind::Reclaimed | ChangeKind::Returned);
    if vanished {
        hold!(new.lost_runs == old.lost_runs + 1, "a vanished run is not counted");
        hold!(new.lost_runs <= TaskLimits::LOST_RUNS, "{} lost runs", new.lost_runs);
    }
    let ended_by_loss = what == ChangeKind::Failed
        && !matches!(held, Some(Authorization::Denied { .. }))
        && old.status == Status::InProgress
        && matches!(command, Command::Claim { .. } | Command::Tick { .. });
    hold!(!ended_by_loss || old.lost_runs == TaskLimits::LOST_RUNS, "given up too early");
    if let (Command::Tick { lane_busy }, Status::Assigned) = (command, old.status) {
        let offers = if moved { 0 } else { old.offers };
        match what {
            ChangeKind::Offered => {
                hold!(!lane_busy, "an excused offer is told");
                hold!(new.offers == offers + 1, "offers {} → {}", offers, new.offers)
            }
            ChangeKind::Failed => {
                hold!(!lane_busy, "undeliverable, though its lane is busy");
                hold!(offers == TaskLimits::OFFERS, "undeliverable after {offers} offers");
            }
            _ => {}
        }
    }
    let misrouted = u32::from(what == ChangeKind::Rerouted);
    hold!(new.misrouted == old.misrouted + misrouted, "misrouted");
    Ok(())
}

fn events(old: &Task, new: &Task, command: &Command, entry: &LogEntry) -> Result<(), String> {
    let mut wanted: Vec<&str> = Vec::new();
    let flag = |task: &Task| task.sla.as_ref().map_or((false, false), |s| (s.warned, s.violated));
    let ((warned, violated), (warns, violates)) = (flag(old), flag(new));
    if violates && !violated {
        wanted.push("sla.violation");
        if old.task_type != TaskType::Alert {
            wanted.push("alert.triggered");
        }
    } else if warns && !warned {
        wanted.push("sla.warning");
    }
    hold!(wanted.is_empty() || matches!(command, Command::Tick { .. }), "SLA without a look");
    let held = held_up(old, new, command);
    let one_step = old.status == Status::Assigned && matches!(command, Command::EndExternal { .. });
    if one_step && held.is_none() {
        wanted.push("task.started");
    }
    let ending = match command {
        Command::End { ending, .. } | Command::EndExternal { ending, .. } if held.is_none() => {
            Some(ending)
        }
        _ => None,
    };
    let asks = matches!(ending, Some(RunResult::ApprovalRequired(_)))
        || matches!(held, Some(Authorization::ApprovalRequired(_)));
    let refused = matches!(ending, Some(RunResult::Denied { .. }))
        || matches!(held, Some(Authorization::Denied { .. }));
    if asks {
        wanted.push("approval.requested");
    }
    let suspended = entry.what == ChangeKind::Held && old.status == Status::InProgress;
    let passed = entry.what == ChangeKind::Overridden && new.assignment > old.assignment;
    match suspended {
        true => {}
        false => wanted.extend(rows::events(entry.what)),
    }
    if passed {
        wanted.push("task.assigned");
    }
    if refused && entry.what == ChangeKind::Failed {
        wanted.push("permission.denied");
        if old.task_type != TaskType::Alert {
            wanted.push("alert.triggered");
        }
    }
    if let Command::End { events, .. } = command {
        wanted.extend(events.iter().map(|event| event.event_type.as_str()));
    }
    let found = types(entry);
    hold!(found == wanted, "events {found:?}, wanted {wanted:?}");
    Ok(())
}

/// Entries that left the header are in the overflow, complete and in order.
fn log(before: &Before<'_>, decided: &Decided) -> Result<(), String> {
    let all: Vec<&LogEntry> = decided.overflow.iter().chain(&decided.task.log).collect();
    let old = &before.task.log;
    hold!(all.len() == old.len() + 1, "{} entries became {}", old.len(), all.len());
    hold!(all.iter().zip(old).all(|(new, old)| **new == *old), "an older entry changed");
    Ok(())
}

/// `silent`: the versions without a log entry.
pub fn whole_log(
    log: &[LogEntry],
    version: u64,
    silent: &BTreeSet<u64>,
    rules: &EngineConfig,
) -> Result<(), String> {
    let versions: Vec<u64> = log.iter().map(|entry| entry.version).collect();
    let wanted: Vec<u64> = (1..=version).filter(|version| !silent.contains(version)).collect();
    hold!(versions == wanted, "versions {versions:?}");
    let times = |name: &str| {
        log.iter().flat_map(|entry| &entry.events).filter(|e| e.event_type.as_str() == name).count()
    };
    for once in ["task.created", "sla.warning", "sla.violation"] {
        hold!(times(once) <= 1, "{once} {} times", times(once));
    }
    let ends = ["task.completed", "task.failed", "task.cancelled"].map(times).iter().sum::<usize>();
    let over = usize::from(log.last().is_some_and(|entry| entry.status.is_terminal()));
    hold!(ends == over, "{ends} endings of a task that is over {over} times");
    hold!(log.windows(2).all(|pair| pair[0].at <= pair[1].at), "times go back in the log");
    hold!(rules.retry.max_retries == 3, "the rules changed meanwhile");
    Ok(())
}
