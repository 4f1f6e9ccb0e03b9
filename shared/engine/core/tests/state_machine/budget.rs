//! Invariants of a task's spending: the moves of the tenant's counters match what the task has
//! used and reserved, each part once; and a run's usage is logged when it ends.

use watchbill_core::decide::Authorization;
use watchbill_core::decide::{Command, Decided, DecisionContext, RunResult};
use watchbill_domain::{
    Amount, ChangeKind, Lease, Outcome, ReputationEvent, ScoreDelta, Status, Task,
};
use watchbill_governance::{BudgetMove, BudgetMoveKind, CallCost};

macro_rules! hold {
    ($holds:expr, $($words:tt)+) => { if !$holds { return Err(format!($($words)+)); } };
}

const NONE: Amount = Amount { micro_usd: 0, tokens: 0 };

fn sum(one: Amount, other: Amount) -> Amount {
    Amount { micro_usd: one.micro_usd + other.micro_usd, tokens: one.tokens + other.tokens }
}

/// Whether a command on the budget must be accepted.
pub fn wanted(task: &Task, command: &Command, facts: &DecisionContext<'_>) -> bool {
    let ghost = |lease: &Lease| lease.epoch != Lease::OUTSIDE && lease.epoch < facts.epoch;
    let lease = task.lease.as_ref().filter(|lease| !ghost(lease));
    let (Status::InProgress, Some(lease)) = (task.status, lease) else { return false };
    let live = lease.until > facts.now;
    let holds = |fence: &u64| *fence == task.fence;
    let open = |n: &u64| task.reservation.as_ref().is_some_and(|open| open.n == *n);
    match command {
        Command::Reserve { fence, quote: CallCost { amount, .. }, limits } => {
            let all = sum(task.spent, *amount);
            let fits = (amount.micro_usd == 0 || all.micro_usd <= limits.task.micro_usd)
                && (amount.tokens == 0 || all.tokens <= limits.task.tokens);
            holds(fence) && live && task.reservation.is_none() && fits
        }
        Command::Sent { fence, n } => holds(fence) && live && open(n),
        Command::Settle { fence, n, .. } => holds(fence) && open(n),
        Command::Release { fence, n } => {
            holds(fence) && open(n) && task.reservation.as_ref().is_some_and(|open| !open.sent)
        }
        _ => false,
    }
}

pub fn change(
    old: &Task,
    command: &Command,
    decided: &Decided,
    facts: &DecisionContext<'_>,
) -> Result<(), String> {
    let new = &decided.task;
    let Some(entry) = new.log.last() else { return Err("the log is empty".into()) };
    if let Some(open) = &new.reservation {
        let run = new.status == Status::InProgress && new.lease.is_some();
        hold!(run && open.fence == new.fence, "set aside for a run that is over: {open:?}");
        let over = new.lease.as_ref().is_some_and(|lease| {
            lease.until <= facts.now || lease.epoch != Lease::OUTSIDE && lease.epoch < facts.epoch
        });
        let looked = matches!(command, Command::Tick { .. });
        hold!(!(over && looked), "still set aside after a look past the lease");
    }
    let used = moved(old, command, decided, facts)?;
    hold!(new.spent == sum(old.spent, used), "spent {:?}, then {:?}", old.spent, new.spent);
    let untold = sum(old.run_spent, used);
    let over = new.status != Status::InProgress || entry.what == ChangeKind::Reclaimed;
    let (told, kept) = if over { (untold, NONE) } else { (NONE, untold) };
    hold!(new.run_spent == kept, "{:?} not told, should be {kept:?}", new.run_spent);
    let wanted = Outcome {
        tokens: told.tokens,
        micro_usd: told.micro_usd,
        reputation: score_delta(old, new, command),
        ..from(old, new, command)
    };
    let wanted = Some(wanted).filter(|outcome| *outcome != Outcome::default());
    hold!(entry.outcome == wanted, "outcome {:?} instead of {wanted:?}", entry.outcome);
    Ok(())
}

/// What the change has used, after checking the budget move that it must have made.
fn moved(
    old: &Task,
    command: &Command,
    decided: &Decided,
    facts: &DecisionContext<'_>,
) -> Result<Amount, String> {
    let found = decided.budget;
    match (&old.reservation, &decided.task.reservation) {
        (None, None) => {
            hold!(found.is_none(), "moved {found:?} with nothing set aside");
            Ok(NONE)
        }
        (Some(old), Some(new)) => {
            let sent = old.sent || matches!(command, Command::Sent { .. });
            hold!(found.is_none() && new.sent == sent, "{old:?} became {new:?}, moved {found:?}");
            hold!((old.n, old.at, old.amount) == (new.n, new.at, new.amount), "{old:?}, {new:?}");
            Ok(NONE)
        }
        (None, Some(new)) => {
            let Command::Reserve { quote: CallCost { amount, price }, limits, .. } = command else {
                return Err(format!("{new:?} came of itself"));
            };
            let kind = BudgetMoveKind::Reserve { amount: *amount, limits: *limits };
            let wanted = BudgetMove { at: facts.now, kind };
            hold!(found == Some(wanted), "moved {found:?}, should be {wanted:?}");
            hold!(new.price == *price, "priced at {:?}", new.price);
            hold!(!new.sent && new.at == facts.now && new.amount == *amount, "set aside {new:?}");
            Ok(NONE)
        }
        (Some(old), None) => {
            let used = match command {
                Command::Settle { used, .. } => *used,
                _ if old.sent => old.amount,
                _ => NONE,
            };
            let kind = BudgetMoveKind::Settle { reserved: old.amount, used };
            let wanted = BudgetMove { at: old.at, kind };
            hold!(found == Some(wanted), "moved {found:?}, should be {wanted:?}");
            Ok(used)
        }
    }
}

/// Who the score change belongs to, and whether the daily limit applies to it.
fn from(old: &Task, new: &Task, command: &Command) -> Outcome {
    let (read_only, worker) = match command {
        _ if score_delta(old, new, command).is_empty() => (false, None),
        _ if super::check::held_up(old, new, command).is_some() => (false, None),
        Command::End { outcome, .. } => (outcome.read_only, None),
        Command::EndExternal { by, .. } => (false, Some(by.owner.clone())),
        _ => (false, None),
    };
    Outcome { read_only, worker, ..Outcome::default() }
}

/// The agent's score changes caused by the command.
fn score_delta(old: &Task, new: &Task, command: &Command) -> Vec<ScoreDelta> {
    match super::check::held_up(old, new, command) {
        Some(Authorization::Denied { score_delta, .. }) if new.status == Status::Failed => {
            return score_delta.iter().copied().collect();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    match command {
        Command::End {
            ending: RunResult::Suspended { .. } | RunResult::Deferred { .. }, ..
        } => Vec::new(),
        Command::End { outcome, .. } => outcome
            .reputation
            .iter()
            .filter(|score_delta| {
                score_delta.0 != ReputationEvent::TaskFailure || new.status == Status::Failed
            })
            .map(|score_delta| match score_delta {
                ScoreDelta(ReputationEvent::TaskFailure, _) if new.failure_counted => {
                    ScoreDelta(ReputationEvent::TaskFailure, 0)
                }
                score_delta => *score_delta,
            })
            .collect(),
        Command::EndExternal { ending, .. } => match ending {
            RunResult::Succeeded { .. } => vec![ScoreDelta(ReputationEvent::TaskSuccess, 2)],
            RunResult::Failed { .. } | RunResult::FailedForGood { .. }
                if new.status == Status::Failed =>
            {
                let points = if new.failure_counted { 0 } else { -3 };
                vec![ScoreDelta(ReputationEvent::TaskFailure, points)]
            }
            RunResult::Blocked { question: Some(_), .. } => {
                vec![ScoreDelta(ReputationEvent::HumanEscalation, -8)]
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
