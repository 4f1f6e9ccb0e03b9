//! A run's use of the budget: it reserves the maximum cost of a model call, marks the call as
//! sent, and settles with the actual usage. Whatever ends the run settles an open reservation.

use watchbill_domain::{Amount, ChangeKind, Lease, Reservation, Status};
use watchbill_governance::{
    BudgetExceeded, BudgetLimits, BudgetMove, BudgetMoveKind, CallCost, Period,
};

use super::Rejection;
use super::task::Transition;

pub(super) fn reserve(
    step: &mut Transition<'_>,
    fence: u64,
    quote: CallCost,
    limits: &BudgetLimits,
) -> Result<(), Rejection> {
    let CallCost { amount, price } = quote;
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
    log_step(step, ChangeKind::Reserved, &format!("at most {amount}"));
    Ok(())
}

/// From here on the call counts as made, even if no result ever arrives.
pub(super) fn sent(step: &mut Transition<'_>, fence: u64, n: u64) -> Result<(), Rejection> {
    demand_live(step, fence)?;
    let reservation = step.task.reservation.as_mut().filter(|open| open.n == n);
    let Some(reservation) = reservation else { return Err(Rejection::NothingReserved) };
    reservation.sent = true;
    log_step(step, ChangeKind::Sent, "");
    Ok(())
}

/// `used`: the actual usage, even where it exceeds the reservation.
pub(super) fn settle(
    step: &mut Transition<'_>,
    fence: u64,
    n: u64,
    used: Amount,
) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    let open = step.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    charge(step, &open, used);
    log_step(step, ChangeKind::Settled, &format!("{used} used"));
    Ok(())
}

/// The call was never made.
pub(super) fn release(step: &mut Transition<'_>, fence: u64, n: u64) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    let open = step.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    if open.sent {
        return Err(step.illegal("released from its reservation: the call may have been sent"));
    }
    charge(step, &open, Amount::NONE);
    log_step(step, ChangeKind::Settled, "released");
    Ok(())
}

/// Settles a run's open reservation: a call that may have been sent counts with its estimate.
pub(super) fn settle_abandoned_reservation(step: &mut Transition<'_>) {
    if let Some(open) = step.task.reservation.take() {
        charge(step, &open, if open.sent { open.amount } else { Amount::NONE });
    }
}

/// The same, if the change has taken the task from the run that made the reservation.
pub(super) fn take_back_if_over(step: &mut Transition<'_>) {
    let task = &step.task;
    let goes_on = |open: &Reservation| {
        task.status == Status::InProgress && task.lease.is_some() && task.fence == open.fence
    };
    if task.reservation.as_ref().is_some_and(|open| !goes_on(open)) {
        settle_abandoned_reservation(step);
    }
}

/// Adds the run's usage to the outcome of the change that ends it, whatever ends it.
pub(super) fn report_usage(step: &mut Transition<'_>, what: ChangeKind) {
    let goes_on = step.task.status == Status::InProgress && what != ChangeKind::Reclaimed;
    if goes_on || step.task.run_spent == Amount::NONE {
        return;
    }
    let Amount { micro_usd, tokens } = std::mem::take(&mut step.task.run_spent);
    let outcome = step.outcome.get_or_insert_default();
    outcome.micro_usd = outcome.micro_usd.saturating_add(micro_usd);
    outcome.tokens = outcome.tokens.saturating_add(tokens);
    step.task.outcome.clone_from(&step.outcome);
}

fn charge(step: &mut Transition<'_>, open: &Reservation, used: Amount) {
    step.task.spent = step.task.spent.plus(used);
    step.task.run_spent = step.task.run_spent.plus(used);
    let kind = BudgetMoveKind::Settle { reserved: open.amount, used };
    step.budget = Some(BudgetMove { at: open.at, kind });
}

/// Requires that the run holds the task; an expired lease is fine until another run claims the
/// task.
fn demand_run(step: &Transition<'_>, fence: u64) -> Result<(), Rejection> {
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

/// Nothing may begin after the lease has expired.
fn demand_live(step: &Transition<'_>, fence: u64) -> Result<(), Rejection> {
    demand_run(step, fence)?;
    match &step.task.lease {
        Some(lease) if lease.until > step.facts.now => Ok(()),
        _ => Err(step.illegal("charged: its run's lease has expired")),
    }
}

fn log_step(step: &mut Transition<'_>, what: ChangeKind, note: &str) {
    let owner = step.task.lease.as_ref().map(|lease| lease.owner.clone()).unwrap_or_default();
    step.log_change(what, &owner, Some(note).filter(|note| !note.is_empty()));
}
