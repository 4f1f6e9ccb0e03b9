//! What a run does to the budget: it sets aside the most that a model's call can cost, says
//! that the call may go out, and settles with what it used. Whatever takes the run away
//! settles what it left open.

use watchbill_domain::{Amount, Lease, Reservation, Status, What};
use watchbill_governance::{
    BudgetExceeded, BudgetLimits, BudgetMove, BudgetMoveKind, Period, Quote,
};

use super::Rejection;
use super::task::Step;

pub(super) fn reserve(
    step: &mut Step<'_>,
    fence: u64,
    quote: Quote,
    limits: &BudgetLimits,
) -> Result<(), Rejection> {
    let Quote { amount, price } = quote;
    demand_live(step, fence)?;
    if step.task.reservation.is_some() {
        return Err(step.illegal("given a second reservation before the first is settled"));
    }
    let (limit, spent) = (limits.task, step.task.spent);
    if let Some(exceeded) = BudgetExceeded::found(Period::Task, limit, spent, amount) {
        return Err(Rejection::OverBudget(exceeded));
    }
    let at = step.facts.now;
    let n = step.version() + 1;
    step.task.reservation = Some(Reservation { n, amount, at, fence, sent: false, price });
    step.budget =
        Some(BudgetMove { at, kind: BudgetMoveKind::Reserve { amount, limits: *limits } });
    say(step, What::Reserved, &format!("{amount} at most"));
    Ok(())
}

/// From here on the call counts as made, also if nothing more is heard of it.
pub(super) fn sent(step: &mut Step<'_>, fence: u64, n: u64) -> Result<(), Rejection> {
    demand_live(step, fence)?;
    let reservation = step.task.reservation.as_mut().filter(|open| open.n == n);
    let Some(reservation) = reservation else { return Err(Rejection::NothingReserved) };
    reservation.sent = true;
    say(step, What::Sent, "");
    Ok(())
}

/// `used`: what it really was, also where that is more than was set aside.
pub(super) fn settle(
    step: &mut Step<'_>,
    fence: u64,
    n: u64,
    used: Amount,
) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    let open = step.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    charge(step, &open, used);
    say(step, What::Settled, &format!("{used} used"));
    Ok(())
}

/// The call was never made.
pub(super) fn release(step: &mut Step<'_>, fence: u64, n: u64) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    let open = step.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    if open.sent {
        return Err(step.illegal("given its reservation back: the call may have been sent"));
    }
    charge(step, &open, Amount::NONE);
    say(step, What::Settled, "given back");
    Ok(())
}

/// Settles what a run left open: a call that may have been sent counts as it was estimated.
pub(super) fn take_back(step: &mut Step<'_>) {
    if let Some(open) = step.task.reservation.take() {
        charge(step, &open, if open.sent { open.amount } else { Amount::NONE });
    }
}

/// The same, if the change has taken the task from the run that made the reservation.
pub(super) fn take_back_if_over(step: &mut Step<'_>) {
    let task = &step.task;
    let goes_on = |open: &Reservation| {
        task.status == Status::InProgress && task.lease.is_some() && task.fence == open.fence
    };
    if task.reservation.as_ref().is_some_and(|open| !goes_on(open)) {
        take_back(step);
    }
}

/// What the run used goes into the outcome of the change that ends it, whatever ends it.
pub(super) fn report_usage(step: &mut Step<'_>, what: What) {
    let goes_on = step.task.status == Status::InProgress && what != What::Reclaimed;
    if goes_on || step.task.run_spent == Amount::NONE {
        return;
    }
    let Amount { micro_usd, tokens } = std::mem::take(&mut step.task.run_spent);
    let outcome = step.outcome.get_or_insert_default();
    outcome.micro_usd = outcome.micro_usd.saturating_add(micro_usd);
    outcome.tokens = outcome.tokens.saturating_add(tokens);
    step.task.outcome.clone_from(&step.outcome);
}

fn charge(step: &mut Step<'_>, open: &Reservation, used: Amount) {
    step.task.spent = step.task.spent.plus(used);
    step.task.run_spent = step.task.run_spent.plus(used);
    let kind = BudgetMoveKind::Settle { reserved: open.amount, used };
    step.budget = Some(BudgetMove { at: open.at, kind });
}

/// Only the run that holds the task may; its lease may be over as long as nobody took it.
fn demand_run(step: &Step<'_>, fence: u64) -> Result<(), Rejection> {
    let current = step.task.fence;
    if fence != current {
        return Err(Rejection::Fenced { asked: fence, current });
    }
    step.demand(&[Status::InProgress], "charged by a run")?;
    match &step.task.lease {
        None => Err(step.illegal("charged: no run holds it")),
        Some(lease) if lease.epoch != Lease::OUTSIDE && lease.epoch < step.facts.epoch => {
            Err(Rejection::Fenced { asked: fence, current })
        }
        Some(_) => Ok(()),
    }
}

/// Nothing may begin that the lease does not cover.
fn demand_live(step: &Step<'_>, fence: u64) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    match &step.task.lease {
        Some(lease) if lease.until > step.facts.now => Ok(()),
        _ => Err(step.illegal("charged: its run's time is over")),
    }
}

fn say(step: &mut Step<'_>, what: What, note: &str) {
    let owner = step.task.lease.as_ref().map(|lease| lease.owner.clone()).unwrap_or_default();
    step.says(what, &owner, Some(note).filter(|note| !note.is_empty()));
}
