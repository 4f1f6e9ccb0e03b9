//! The budget of a run for model calls. Before a call its maximum cost is reserved, so that any
//! number of concurrent calls never exceeds a limit. After the call its usage is settled. A
//! reservation that a run leaves open is settled when the run or its lease ends: released, or
//! charged as estimated if the call may have been sent.

use std::time::Duration;

use watchbill_core::decide::{Authorization, Command, Rejection};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{
    CommandError, Core, OnFailure, ServiceError, UNREACHABLE_RETRY_DELAY,
};
use watchbill_domain::{
    Amount, ReputationEvent, Reservation, ScoreDelta, Task, TaskId, TenantId, Timestamp, Usage,
};
use watchbill_governance::BudgetExceeded;

use crate::run::{NotAuthorized, RunOutcome};

/// Reserves and settles for one run of one task. Cheap to clone; one call at a time.
#[derive(Clone)]
pub struct ModelBudget {
    core: Core,
    tenant: TenantId,
    task: TaskId,
    fence: u64,
    /// The end of the run's lease. A busy store is retried until then.
    until: Timestamp,
}

/// Money and tokens reserved for a call that has not been made.
#[must_use = "a reservation that is neither sent nor released blocks the next call"]
pub struct Reserved {
    spending: ModelBudget,
    reservation: Reservation,
}

/// A call that may have been sent.
#[must_use = "a call that is not settled is charged its maximum cost"]
pub struct SentCall(Reserved);

/// Why a reservation or a settlement failed.
#[derive(Debug, thiserror::Error)]
pub enum SpendError {
    #[error("{exceeded}")]
    Exceeded { exceeded: BudgetExceeded, score_delta: ScoreDelta },
    #[error("the run can't spend any more: {0}")]
    Rejected(Rejection),
    /// No model may be called until something is configured.
    #[error("{0}")]
    Unset(String),
    /// `until`: when to retry.
    #[error("the budget can't be reached: {reason}")]
    Unreached { reason: String, until: Timestamp, on_failure: OnFailure },
}

impl ModelBudget {
    /// `task`: as it was claimed.
    pub fn of_run(core: Core, task: &Task) -> Self {
        let until = task.lease.as_ref().map_or(task.created_at, |lease| lease.until);
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        Self { core, tenant, task: id, fence: task.fence, until }
    }

    /// Reserves the most that a call of this model can cost.
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
                    // An earlier attempt whose response was lost may have reserved it.
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

    /// Executes an idempotent command.
    async fn command(&self, command: &Command) -> Result<(), SpendError> {
        for attempt in 0.. {
            match self.core.tasks().command(&self.tenant, &self.task, command).await {
                Ok(_) => return Ok(()),
                // An earlier attempt whose response was lost has done it.
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
                until: self.core.clock().now().plus(UNREACHABLE_RETRY_DELAY),
                on_failure: match error {
                    // The store is overloaded: that is no reason to fail for good.
                    ServiceError::Busy { .. } => OnFailure::Restrict,
                    _ => self.core.governance().on_failure(),
                },
            },
        }
    }

    /// Waits if a retry may succeed; otherwise returns the error.
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
                let score_delta = rules.score_delta(ReputationEvent::BudgetExceeded);
                Err(SpendError::Exceeded { exceeded, score_delta })
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

    /// Call this right before sending: from then on the call counts as made.
    pub async fn send(self) -> Result<SentCall, SpendError> {
        let (fence, n) = (self.spending.fence, self.reservation.n);
        self.spending.command(&Command::Sent { fence, n }).await?;
        Ok(SentCall(self))
    }

    /// The call is not made.
    pub async fn release(self) -> Result<(), SpendError> {
        let (fence, n) = (self.spending.fence, self.reservation.n);
        self.spending.command(&Command::Release { fence, n }).await
    }
}

impl SentCall {
    /// Settles the usage that the response reports, even if it exceeds the reservation. The
    /// price is the one at the time of the reservation. If the store can't be reached, this
    /// succeeds all the same, since the response is paid for, and the end of the run charges
    /// the estimate.
    pub async fn settle(self, usage: Usage) -> Result<Amount, SpendError> {
        let used = match self.0.reservation.price {
            Some(price) => price.cost(usage),
            None => self.0.reservation.amount,
        };
        self.settle_at(used).await
    }

    /// The usage is not known: the call counts as the most that it could cost.
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
                tracing::warn!(%task, "the model call is charged as estimated: {reason}");
                Ok(reservation.amount)
            }
            Err(error) => Err(error),
        }
    }
}

impl From<SpendError> for RunOutcome {
    /// The end of a run that can't continue without its model.
    fn from(error: SpendError) -> Self {
        match error {
            SpendError::Exceeded { exceeded, score_delta } => {
                not_authorized(Authorization::Denied {
                    error: exceeded.to_string(),
                    score_delta: Some(score_delta),
                })
            }
            SpendError::Unset(reason) => RunOutcome::Blocked { reason, question: None },
            SpendError::Unreached { on_failure: OnFailure::Deny, .. } => {
                let error = format!("Permission denied: {error}");
                not_authorized(Authorization::Denied { error, score_delta: None })
            }
            SpendError::Unreached { until, .. } => {
                not_authorized(Authorization::Deferred { until, why: error.to_string() })
            }
            SpendError::Rejected(_) => RunOutcome::retryable(error.to_string()),
        }
    }
}

fn not_authorized(decision: Authorization) -> RunOutcome {
    RunOutcome::NotAuthorized(NotAuthorized {
        authorization: decision,
        extra_writes: Vec::new(),
        of: None,
    })
}
