//! A run's use of the budget: it reserves the maximum cost of a model call, marks the call as
//! sent, and settles with the actual usage. Whatever ends the run settles an open reservation.

use watchbill_domain::{Amount, ChangeKind, Lease, Reservation, Status};
use watchbill_governance::{
    BudgetExceeded, BudgetLimits, BudgetMove, BudgetMoveKind, CallCost, Period,
};

use super::Rejection;
use super::task::Transition;

pub(super) fn reserve(
    transition: &mut Transition<'_>,
    fence: u64,
    quote: CallCost,
    limits: &BudgetLimits,
) -> Result<(), Rejection> {
    let CallCost { amount, price } = quote;
    demand_live(transition, fence)?;
    if transition.task.reservation.is_some() {
        return Err(transition.illegal("given a second reservation before the first is settled"));
    }
    let (limit, spent) = (limits.task, transition.task.spent);
    if let Some(exceeded) = BudgetExceeded::found(Period::Task, limit, spent, amount) {
        return Err(Rejection::OverBudget(exceeded));
    }
    let at = transition.facts.now;
    let n = transition.version() + 1;
    transition.task.reservation = Some(Reservation { n, amount, at, fence, sent: false, price });
    transition.budget =
        Some(BudgetMove { at, kind: BudgetMoveKind::Reserve { amount, limits: *limits } });
    log_step(transition, ChangeKind::Reserved, &format!("at most {amount}"));
    Ok(())
}

/// From here on the call counts as made, even if no result ever arrives.
pub(super) fn sent(transition: &mut Transition<'_>, fence: u64, n: u64) -> Result<(), Rejection> {
    demand_live(transition, fence)?;
    let reservation = transition.task.reservation.as_mut().filter(|open| open.n == n);
    let Some(reservation) = reservation else { return Err(Rejection::NothingReserved) };
    reservation.sent = true;
    log_step(transition, ChangeKind::Sent, "");
    Ok(())
}

/// `used`: the actual usage, even where it exceeds the reservation.
pub(super) fn settle(
    transition: &mut Transition<'_>,
    fence: u64,
    n: u64,
    used: Amount,
) -> Result<(), Rejection> {
    demand_run(transition, fence)?;
    let open = transition.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    charge(transition, &open, used);
    log_step(transition, ChangeKind::Settled, &format!("{used} used"));
    Ok(())
}

/// The call was never made.
pub(super) fn release(
    transition: &mut Transition<'_>,
    fence: u64,
    n: u64,
) -> Result<(), Rejection> {
    demand_run(transition, fence)?;
    let open = transition.task.reservation.take_if(|open| open.n == n);
    let Some(open) = open else { return Err(Rejection::NothingReserved) };
    if open.sent {
        return Err(
            transition.illegal("released from its reservation: the call may have been sent")
        );
    }
    charge(transition, &open, Amount::NONE);
    log_step(transition, ChangeKind::Settled, "released");
    Ok(())
}

/// Settles a run's open reservation: a call that may have been sent counts with its estimate.
pub(super) fn settle_abandoned_reservation(transition: &mut Transition<'_>) {
    if let Some(open) = transition.task.reservation.take() {
        charge(transition, &open, if open.sent { open.amount } else { Amount::NONE });
    }
}

/// The same, if the change has taken the task from the run that made the reservation.
pub(super) fn take_back_if_over(transition: &mut Transition<'_>) {
    let task = &transition.task;
    let goes_on = |open: &Reservation| {
        task.status == Status::InProgress && task.lease.is_some() && task.fence == open.fence
    };
    if task.reservation.as_ref().is_some_and(|open| !goes_on(open)) {
        settle_abandoned_reservation(transition);
    }
}

/// Adds the run's usage to the outcome of the change that ends it, whatever ends it.
pub(super) fn report_usage(transition: &mut Transition<'_>, what: ChangeKind) {
    let goes_on = transition.task.status == Status::InProgress && what != ChangeKind::Reclaimed;
    if goes_on || transition.task.run_spent == Amount::NONE {
        return;
    }
    let Amount { micro_usd, tokens } = std::mem::take(&mut transition.task.run_spent);
    let outcome = transition.outcome.get_or_insert_default();
    outcome.micro_usd = outcome.micro_usd.saturating_add(micro_usd);
    outcome.tokens = outcome.tokens.saturating_add(tokens);
    transition.task.outcome.clone_from(&transition.outcome);
}

fn charge(transition: &mut Transition<'_>, open: &Reservation, used: Amount) {
    transition.task.spent = transition.task.spent.plus(used);
    transition.task.run_spent = transition.task.run_spent.plus(used);
    let kind = BudgetMoveKind::Settle { reserved: open.amount, used };
    transition.budget = Some(BudgetMove { at: open.at, kind });
}

/// Requires that the run holds the task; an expired lease is fine until another run claims the
/// task.
fn demand_run(transition: &Transition<'_>, fence: u64) -> Result<(), Rejection> {
    let current = transition.task.fence;
    if fence != current {
        return Err(Rejection::Fenced { asked: fence, current });
    }
    transition.demand(&[Status::InProgress], "charged by a run")?;
    match &transition.task.lease {
        None => Err(transition.illegal("charged: no run holds it")),
        Some(lease) if lease.epoch != Lease::OUTSIDE && lease.epoch < transition.facts.epoch => {
            Err(Rejection::Fenced { asked: fence, current })
        }
        Some(_) => Ok(()),
    }
}

/// Nothing may begin after the lease has expired.
fn demand_live(transition: &Transition<'_>, fence: u64) -> Result<(), Rejection> {
    demand_run(transition, fence)?;
    match &transition.task.lease {
        Some(lease) if lease.until > transition.facts.now => Ok(()),
        _ => Err(transition.illegal("charged: its run's lease has expired")),
    }
}

fn log_step(transition: &mut Transition<'_>, what: ChangeKind, note: &str) {
    let owner = transition.task.lease.as_ref().map(|lease| lease.owner.clone()).unwrap_or_default();
    transition.log_change(what, &owner, Some(note).filter(|note| !note.is_empty()));
}
