//! Runs one task for one lane message: claim, work, end. The lease and its fence decide who may
//! write; everything here may happen twice.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde_json::{Map, Value};
use watchbill_core::decide::{
    Authorization, Command, Rejection, RunResult, VersionedAuthorization,
};
use watchbill_core::handler::{HandlerError, panic_text};
use watchbill_core::ports::{LaneMessage, Write};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{
    AuthorizedChange, CommandBuilder, CommandError, CommandWithWrites, Core, Runner, ServiceError,
};
use watchbill_domain::{Agent, LoggedEvent, Note, Outcome, Status, Task, Timestamp, ToolCall};
use watchbill_governance::Planned;

use crate::journal::Journal;
use crate::model_budget::ModelBudget;
use crate::run::{NotAuthorized, Notes, PlannedFor, Retry, Run, RunOutcome, TaskAgent};

/// Delay before retrying a write of a run's end that the store refused.
const WRITE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Runs tasks of one agent.
#[derive(Clone)]
pub struct Executor {
    core: Core,
    agent: Arc<dyn TaskAgent>,
    /// Identifies this process in leases.
    owner: Arc<str>,
}

impl Executor {
    pub fn new(core: Core, agent: Arc<dyn TaskAgent>, owner: impl Into<Arc<str>>) -> Self {
        Self { core, agent, owner: owner.into() }
    }

    pub fn agent(&self) -> Agent {
        self.agent.agent()
    }

    /// `Ok`: the message can be deleted, whatever happened to the task.
    pub async fn handle(&self, message: &LaneMessage) -> Result<(), HandlerError> {
        let Some((claimed, planned)) = self.claim(message).await? else { return Ok(()) };
        if claimed.value.status != Status::InProgress {
            // Governance deferred it, or the claim found one lost run too many and ended it.
            return Ok(());
        }
        let (claimed, ended) = self.work(claimed, planned).await;
        self.end(claimed, ended).await
    }

    /// Claims the task if governance authorizes it. `None`: this message needs no run.
    async fn claim(
        &self,
        message: &LaneMessage,
    ) -> Result<Option<(StoredTask, ClaimedPlan)>, HandlerError> {
        let stored = self.core.tasks().stored(&message.tenant, &message.task_id).await?;
        let Some(stored) = stored.filter(|stored| may_be_claimed(&stored.value, message)) else {
            tracing::debug!(task = %message.task_id, "the task reference is stale");
            return Ok(None);
        };
        let claiming = Claim { executor: self, message, plan: Mutex::default() };
        match self.core.tasks().execute_with_writes(stored, &claiming).await {
            Ok(claimed) => {
                let plan = claiming.plan.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(Some((claimed, plan)))
            }
            Err(CommandError::Service(ServiceError::Conflict { .. })) => {
                Err(HandlerError::retry(WRITE_RETRY_DELAY, "the task changed while it was claimed"))
            }
            Err(CommandError::Service(error)) => Err(error.into()),
            Err(CommandError::Rejected { rejection, status }) => {
                self.unclaimed(message, rejection, status).await?;
                Ok(None)
            }
        }
    }

    /// The decision of governance; `None` if none is needed.
    async fn authorize(
        &self,
        stored: &StoredTask,
        payload: &Map<String, Value>,
    ) -> Result<Option<AuthorizedChange>, ServiceError> {
        if self.agent.is_implemented() && stored.value.agent == self.agent.agent() {
            return self.core.authorizer().authorize(stored, payload, Runner::Own).await.map(Some);
        }
        Ok(None)
    }

    async fn unclaimed(
        &self,
        message: &LaneMessage,
        rejection: Rejection,
        status: Option<Status>,
    ) -> Result<(), HandlerError> {
        let now = self.core.clock().now();
        match rejection {
            Rejection::Held { until, .. } => {
                let after = until.since(now) + Duration::from_secs(1);
                Err(HandlerError::retry(after, "another run holds the task"))
            }
            Rejection::NotYet { at } => {
                Err(HandlerError::retry(at.since(now), "the task waits for its next retry"))
            }
            Rejection::WrongAgent { agent } => self.reroute(message, agent).await,
            other => {
                tracing::debug!(
                    task = %message.task_id, ?status,
                    "the task reference is stale: {other}"
                );
                Ok(())
            }
        }
    }

    /// Returns the task to its own agent's lane, and counts this in the task.
    async fn reroute(&self, message: &LaneMessage, right: Agent) -> Result<(), HandlerError> {
        let reached = self.agent.agent();
        tracing::warn!(
            task = %message.task_id, agent = %right, %reached,
            "the lane message reached the wrong agent"
        );
        let command = Command::Reroute { agent: reached };
        match self.core.tasks().command(&message.tenant, &message.task_id, &command).await {
            Ok(_) | Err(CommandError::Rejected { .. }) => Ok(()),
            Err(CommandError::Service(error)) => Err(error.into()),
        }
    }

    /// Does the work within its time limit. A panic fails only this task.
    async fn work(&self, claimed: StoredTask, plan: ClaimedPlan) -> (StoredTask, RunReturn) {
        let clock = self.core.clock().clone();
        let limit = self.core.rules().lease.run;
        let StoredTask { value, version, unknown, due } = claimed;
        let ClaimedPlan { payload, planned } = plan;
        let planned_for =
            planned.clone().map(|planned| PlannedFor { payload: payload.clone(), planned });
        let journal = Journal::of_run(self.core.clone(), &value).planned(planned_for.clone());
        let run = Run {
            payload,
            planned,
            journal: Some(journal.clone()),
            spending: Some(ModelBudget::of_run(self.core.clone(), &value)),
            task: value,
            deadline: clock.monotonic() + limit,
            notes: Notes::new(clock.clone()),
            clock,
        };
        let working = AssertUnwindSafe(self.agent.run(&run)).catch_unwind();
        let end = match run.within(limit, working).await {
            Some(Ok(end)) => end,
            Some(Err(panic)) => {
                let (id, reason) = (&run.task.id, panic_text(panic.as_ref()));
                tracing::error!(task = %id, "the agent panicked: {reason}");
                RunOutcome::retryable(format!("the agent panicked: {reason}"))
            }
            None => RunOutcome::retryable(format!(
                "the run exceeded its limit of {} s",
                limit.as_secs()
            )),
        };
        let read_only = !journal.changed_something();
        let ended = RunReturn { end, notes: run.notes.list(), read_only, planned: planned_for };
        (StoredTask { value: run.task, version, unknown, due }, ended)
    }

    /// Writes the end of the run. The work must not be lost because the store is busy, so this
    /// retries until the lease ends. After that the message is redelivered and the run starts
    /// again.
    async fn end(&self, claimed: StoredTask, ended: RunReturn) -> Result<(), HandlerError> {
        let task = &claimed.value;
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        let until = task.lease.as_ref().map_or(task.created_at, |lease| lease.until);
        let ending = self.end_run(task, ended, until).await?;
        let mut written = self.core.tasks().execute_with_writes(claimed, &ending).await;
        loop {
            match written {
                Ok(_) => return Ok(()),
                Err(CommandError::Rejected { rejection, status }) => {
                    tracing::info!(
                        task = %id, ?status,
                        "the run's result is not recorded: {rejection}"
                    );
                    return Ok(());
                }
                Err(CommandError::Service(error)) => {
                    if self.core.clock().now() >= until {
                        return Err(error.into());
                    }
                    tracing::warn!(task = %id, "the end of the run is not written yet: {error}");
                    self.core.clock().sleep(WRITE_RETRY_DELAY).await;
                }
            }
            written = match self.core.tasks().stored(&tenant, &id).await {
                Ok(Some(state)) => self.core.tasks().execute_with_writes(state, &ending).await,
                Ok(None) => {
                    Err(CommandError::Rejected { rejection: Rejection::Absent, status: None })
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    async fn end_run(
        &self,
        task: &Task,
        ended: RunReturn,
        until: Timestamp,
    ) -> Result<EndRun, HandlerError> {
        let RunReturn { mut end, notes, read_only, planned } = ended;
        let events = match &mut end {
            RunOutcome::Done { events, .. } | RunOutcome::Failed { events, .. } => {
                std::mem::take(events)
            }
            RunOutcome::Blocked { .. }
            | RunOutcome::Suspended { .. }
            | RunOutcome::NotAuthorized(_) => Vec::new(),
        };
        let how = self.ending(task, end, until).await?;
        let (core, fence) = (self.core.clone(), task.fence);
        Ok(EndRun { core, fence, how, events, notes, read_only, planned })
    }

    async fn ending(
        &self,
        task: &Task,
        end: RunOutcome,
        until: Timestamp,
    ) -> Result<How, HandlerError> {
        let ending = match end {
            RunOutcome::Done { result, .. } => return self.succeeded(task, &result, until).await,
            RunOutcome::NotAuthorized(not_authorized) => {
                return Ok(How::NotAuthorized(not_authorized));
            }
            RunOutcome::Failed { error, retry: Retry::No, .. } => {
                RunResult::FailedForGood { error }
            }
            RunOutcome::Failed { error, retry: Retry::Yes { after }, .. } => {
                RunResult::Failed { error, retry: after }
            }
            RunOutcome::Blocked { reason, question } => RunResult::Blocked { reason, question },
            RunOutcome::Suspended { resume_at, note } => RunResult::Suspended { resume_at, note },
        };
        Ok(How::Ended(ending, None))
    }

    /// A large result is first put into the blob store, with the same retries as the store.
    async fn succeeded(
        &self,
        task: &Task,
        result: &Map<String, Value>,
        until: Timestamp,
    ) -> Result<How, HandlerError> {
        let (tenant, id) = (&task.tenant, &task.id);
        let placed = match self.core.tasks().place_result(tenant, id, result) {
            Ok(placed) => placed,
            // The work is done; running it again would only produce the same result.
            Err(error) => {
                let error = format!("its result can't be stored: {error}");
                return Ok(How::Ended(RunResult::FailedForGood { error }, None));
            }
        };
        loop {
            match self.core.tasks().put_result(tenant, id, &placed).await {
                Ok(write) => {
                    return Ok(How::Ended(RunResult::Succeeded { result: placed.body }, write));
                }
                Err(error) if self.core.clock().now() >= until => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(task = %id, "the run's result is not stored yet: {error}");
                }
            }
            self.core.clock().sleep(WRITE_RETRY_DELAY).await;
        }
    }
}

/// What a run returns.
struct RunReturn {
    end: RunOutcome,
    notes: Vec<Note>,
    /// It changed nothing external, as far as its journal knows.
    read_only: bool,
    planned: Option<PlannedFor>,
}

/// The payload of the claimed state, and the plan that governance authorized.
#[derive(Default)]
struct ClaimedPlan {
    payload: Arc<Map<String, Value>>,
    planned: Option<Arc<Planned>>,
}

/// Claims a task for its agent, with governance's decision on the state that is claimed.
struct Claim<'a> {
    executor: &'a Executor,
    message: &'a LaneMessage,
    plan: Mutex<ClaimedPlan>,
}

#[async_trait]
impl CommandBuilder for Claim<'_> {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let Self { executor, message, .. } = self;
        let mut claim = Command::Claim {
            agent: executor.agent(),
            owner: executor.owner.to_string(),
            assignment: message.assignment,
            authorization: VersionedAuthorization::granted(state.version),
        };
        // No decision for a task that can't be claimed: nothing must be written for it.
        if !may_be_claimed(&state.value, message) {
            return Ok(claim.into());
        }
        let payload = executor.core.tasks().payload(&state.value).await?;
        let change = executor.authorize(state, &payload).await?;
        let planned = change.as_ref().map(|change| change.planned.clone());
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) =
            ClaimedPlan { payload: Arc::new(payload), planned };
        let Some(change) = change else { return Ok(claim.into()) };
        if let Command::Claim { authorization, .. } = &mut claim {
            *authorization = change.authorization;
        }
        Ok(CommandWithWrites { command: claim, extra_writes: change.extra_writes })
    }
}

/// Ends a run and writes what belongs to its end.
struct EndRun {
    core: Core,
    fence: u64,
    how: How,
    events: Vec<LoggedEvent>,
    notes: Vec<Note>,
    read_only: bool,
    planned: Option<PlannedFor>,
}

enum How {
    /// The write is of a result in an item of its own, which depends only on the run.
    Ended(RunResult, Option<Write>),
    NotAuthorized(NotAuthorized),
}

#[async_trait]
impl CommandBuilder for EndRun {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let core = &self.core;
        let held = state.value.status == Status::InProgress && state.value.fence == self.fence;
        let (ending, extra_writes) = match &self.how {
            How::Ended(ending, write) => (ending.clone(), write.iter().cloned().collect()),
            How::NotAuthorized(denied) => match &denied.of {
                Some((call, version)) if held && state.version != *version => {
                    let payload = core.tasks().payload(&state.value).await?;
                    let known = self.planned.as_ref().and_then(|plan| plan.of(&payload));
                    let change = authorize_call(core, state, &payload, known, call).await?;
                    (
                        not_authorized(change.authorization.decision, core.clock().now()),
                        change.extra_writes,
                    )
                }
                _ => (
                    not_authorized(denied.authorization.clone(), core.clock().now()),
                    denied.extra_writes.clone(),
                ),
            },
        };
        let score_delta = ending.score_delta(&core.rules().reputation);
        let reputation = score_delta.into_iter().collect();
        let outcome = Outcome { reputation, read_only: self.read_only, ..Outcome::default() };
        let (events, notes) = (self.events.clone(), self.notes.clone());
        let command = Command::End { fence: self.fence, ending, events, notes, outcome };
        Ok(CommandWithWrites { command, extra_writes })
    }
}

/// Governance's decision on one call of a run. Uses the known plan, which was made from this
/// payload.
pub(crate) async fn authorize_call(
    core: &Core,
    state: &StoredTask,
    payload: &Map<String, Value>,
    known: Option<&Arc<Planned>>,
    call: &ToolCall,
) -> Result<AuthorizedChange, ServiceError> {
    match known {
        Some(planned) => {
            core.authorizer()
                .authorize_planned(state, payload, planned, Runner::Own, Some(call))
                .await
        }
        None => core.authorizer().authorize_call(state, payload, Runner::Own, Some(call)).await,
    }
}

/// Whether a task reference may still be valid, checked before anything else is read for it.
fn may_be_claimed(task: &Task, message: &LaneMessage) -> bool {
    matches!(task.status, Status::Assigned | Status::InProgress)
        && message.assignment >= task.assignment
}

/// The end of a run that governance did not authorize to continue.
fn not_authorized(decision: Authorization, now: Timestamp) -> RunResult {
    match decision {
        Authorization::ApprovalRequired(asked) => RunResult::ApprovalRequired(asked),
        Authorization::Denied { error, score_delta } => RunResult::Denied { error, score_delta },
        Authorization::Deferred { until, why } => RunResult::Deferred { until, why },
        // The task changed meanwhile, and its present state is authorized: the run is resumed.
        Authorization::Granted { .. } => {
            RunResult::Suspended { resume_at: now, note: "governance now authorizes it".to_owned() }
        }
    }
}
