//! What a run may spend on models. Before a call the most that it can cost is set aside, so
//! that a thousand calls at once never pass a limit; after it what it used is told. What a run
//! leaves open is settled when it ends or its lease does: freed, or charged as estimated once
//! the call may have gone out.

use std::time::Duration;

use watchbill_core::decide::{Command, Leave, Rejection};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{CommandError, Core, OnFailure, ServiceError, UNREACHED_LOOK};
use watchbill_domain::{
    Amount, Earned, ReputationEvent, Reservation, Task, TaskId, TenantId, Timestamp, Usage,
};
use watchbill_governance::BudgetExceeded;

use crate::run::{RunEnd, Withheld};

/// Spends for one run of one task. Cheap to clone; one call at a time.
#[derive(Clone)]
pub struct Spending {
    core: Core,
    tenant: TenantId,
    task: TaskId,
    fence: u64,
    /// The end of the run's lease: so long a busy store is asked again.
    until: Timestamp,
}

/// Money and tokens that are set aside for a call that has not been made.
#[must_use = "what is neither sent nor released blocks the next call"]
pub struct Reserved {
    spending: Spending,
    reservation: Reservation,
}

/// A call that may have gone out.
#[must_use = "what is not settled counts as the most that it could cost"]
pub struct Sent(Reserved);

/// Why nothing could be set aside, or settled.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    #[error("{exceeded}")]
    Exceeded { exceeded: BudgetExceeded, earned: Earned },
    #[error("the run can't spend any more: {0}")]
    Rejected(Rejection),
    /// No model may be called before someone has set something.
    #[error("{0}")]
    Unset(String),
    /// `until`: when to try again.
    #[error("the budget can't be reached: {reason}")]
    Unreached { reason: String, until: Timestamp, on_failure: OnFailure },
}

impl Spending {
    /// `task`: as it was claimed.
    pub fn of_run(core: Core, task: &Task) -> Self {
        let until = task.lease.as_ref().map_or(task.created_at, |lease| lease.until);
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        Self { core, tenant, task: id, fence: task.fence, until }
    }

    /// Sets aside the most that a call of this model can cost.
    pub async fn reserve(
        &self,
        model: &str,
        most_input: u64,
        most_output: u64,
    ) -> Result<Reserved, SpendError> {
        let most = Usage { input_tokens: most_input, output_tokens: most_output };
        let quote =
            self.core.budgets().quote(model, most).await.map_err(|error| self.unreached(error))?;
        for attempt in 0.. {
            let reserved =
                self.core.tasks().reserve(&self.tenant, &self.task, self.fence, quote).await;
            let stored =
                match reserved {
                    Ok(stored) => stored,
                    // A try whose answer was lost for good may have set it aside.
                    Err(CommandError::Rejected {
                        rejection: Rejection::Illegal { .. }, ..
                    }) if attempt > 0 => self.stored().await?,
                    Err(error) => {
                        self.again(error).await?;
                        continue;
                    }
                };
            let ours = |open: &Reservation| open.fence == self.fence && open.amount == quote.amount;
            let found = stored.value.reservation.filter(|open| ours(open) && !open.sent);
            let Some(reservation) = found else {
                return Err(SpendError::Rejected(Rejection::NothingReserved));
            };
            return Ok(Reserved { spending: self.clone(), reservation });
        }
        unreachable!("the loop returns")
    }

    /// Carries out what may be carried out twice.
    async fn command(&self, command: &Command) -> Result<(), SpendError> {
        for attempt in 0.. {
            match self.core.tasks().command(&self.tenant, &self.task, command).await {
                Ok(_) => return Ok(()),
                // A try whose answer was lost for good has done it.
                Err(CommandError::Rejected { rejection: Rejection::NothingReserved, .. })
                    if attempt > 0 =>
                {
                    return Ok(());
                }
                Err(error) => self.again(error).await?,
            }
        }
        unreachable!("the loop returns")
    }

    async fn stored(&self) -> Result<StoredTask, SpendError> {
        let stored = self.core.tasks().stored(&self.tenant, &self.task).await;
        let stored = stored.map_err(|error| self.unreached(error))?;
        stored.ok_or(SpendError::Rejected(Rejection::Absent))
    }

    fn unreached(&self, error: ServiceError) -> SpendError {
        match error {
            ServiceError::Invalid { message, .. } => SpendError::Unset(message),
            error => SpendError::Unreached {
                reason: error.to_string(),
                until: self.core.clock().now().plus(UNREACHED_LOOK),
                on_failure: match error {
                    // The store has no time for it now: that is no reason to fail for good.
                    ServiceError::Busy { .. } => OnFailure::Restrict,
                    _ => self.core.governance().on_failure(),
                },
            },
        }
    }

    /// Waits where the same is worth another try.
    async fn again(&self, error: CommandError) -> Result<(), SpendError> {
        let clock = self.core.clock();
        match error {
            CommandError::Service(ServiceError::Busy { after }) if clock.now() < self.until => {
                clock.sleep(after.min(Duration::from_secs(1))).await;
                Ok(())
            }
            CommandError::Service(error) => Err(self.unreached(error)),
            CommandError::Rejected { rejection: Rejection::OverBudget(exceeded), .. } => {
                let rules = &self.core.rules().reputation;
                let earned = rules.earned(ReputationEvent::BudgetExceeded);
                Err(SpendError::Exceeded { exceeded, earned })
            }
            CommandError::Rejected { rejection, .. } => Err(SpendError::Rejected(rejection)),
        }
    }
}

impl Reserved {
    /// The most that the call can cost.
    pub fn amount(&self) -> Amount {
        self.reservation.amount
    }

    /// To be called right before the call goes out: from then on it counts as made.
    pub async fn send(self) -> Result<Sent, SpendError> {
        let (fence, n) = (self.spending.fence, self.reservation.n);
        self.spending.command(&Command::Sent { fence, n }).await?;
        Ok(Sent(self))
    }

    /// The call is not made.
    pub async fn release(self) -> Result<(), SpendError> {
        let (fence, n) = (self.spending.fence, self.reservation.n);
        self.spending.command(&Command::Release { fence, n }).await
    }
}

impl Sent {
    /// What the call used, as its answer says; also where it is more than was set aside. It is
    /// priced as it was when it was set aside, and a store out of reach takes nothing back: the
    /// answer is paid for, and what ends the run charges it as estimated.
    pub async fn settle(self, usage: Usage) -> Result<Amount, SpendError> {
        let used = match self.0.reservation.price {
            Some(price) => price.cost(usage),
            None => self.0.reservation.amount,
        };
        self.settle_at(used).await
    }

    /// Nobody knows what the call used: it counts as the most that it could.
    pub async fn settle_as_estimated(self) -> Result<Amount, SpendError> {
        let used = self.0.reservation.amount;
        self.settle_at(used).await
    }

    async fn settle_at(self, used: Amount) -> Result<Amount, SpendError> {
        let Reserved { spending, reservation } = self.0;
        let (fence, n, task) = (spending.fence, reservation.n, &spending.task);
        match spending.command(&Command::Settle { fence, n, used }).await {
            Ok(()) => Ok(used),
            Err(SpendError::Unreached { reason, .. }) => {
                tracing::warn!(%task, "a call of task {task} is charged as estimated: {reason}");
                Ok(reservation.amount)
            }
            Err(error) => Err(error),
        }
    }
}

impl From<SpendError> for RunEnd {
    /// How a run ends that can't go on without its model.
    fn from(error: SpendError) -> Self {
        match error {
            SpendError::Exceeded { exceeded, earned } => {
                withheld(Leave::Refused { error: exceeded.to_string(), earned: Some(earned) })
            }
            SpendError::Unset(reason) => RunEnd::Blocked { reason, question: None },
            SpendError::Unreached { on_failure: OnFailure::Deny, .. } => {
                let error = format!("Permission denied: {error}");
                withheld(Leave::Refused { error, earned: None })
            }
            SpendError::Unreached { until, .. } => {
                withheld(Leave::Hold { until, why: error.to_string() })
            }
            SpendError::Rejected(_) => RunEnd::retryable(error.to_string()),
        }
    }
}

fn withheld(leave: Leave) -> RunEnd {
    RunEnd::Withheld(Withheld { leave, beside: Vec::new(), of: None })
}
