//! Runs one task for one lane message: claim, work, end. The lease and its fence decide who
//! may write; everything here may happen twice.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde_json::{Map, Value};
use watchbill_core::decide::{Command, Ending, Leave, Proof, Rejection};
use watchbill_core::handler::{HandlerError, panic_text};
use watchbill_core::ports::{LaneMessage, Write};
use watchbill_core::repo::StoredTask;
use watchbill_core::service::{
    CommandBuilder, CommandError, CommandWithWrites, Core, Runner, ServiceError, Verdict,
};
use watchbill_domain::{Agent, LoggedEvent, Note, Outcome, Status, Task, Timestamp, ToolCall};
use watchbill_governance::Planned;

use crate::run::{Notes, PlannedFor, Retry, Run, RunEnd, TaskAgent, Withheld};
use crate::spending::Spending;
use crate::steps::Steps;

/// Between two tries to write an ending that the store would not take.
const WRITE_AGAIN: Duration = Duration::from_millis(200);

/// Runs tasks of one agent.
#[derive(Clone)]
pub struct Executor {
    core: Core,
    agent: Arc<dyn TaskAgent>,
    /// Names this process in leases.
    owner: Arc<str>,
}

impl Executor {
    pub fn new(core: Core, agent: Arc<dyn TaskAgent>, owner: impl Into<Arc<str>>) -> Self {
        Self { core, agent, owner: owner.into() }
    }

    pub fn agent(&self) -> Agent {
        self.agent.agent()
    }

    /// `Ok`: the message is done with, whatever became of it.
    pub async fn handle(&self, message: &LaneMessage) -> Result<(), HandlerError> {
        let Some((claimed, planned)) = self.claim(message).await? else { return Ok(()) };
        if claimed.value.status != Status::InProgress {
            // Governance holds it up, or the claim found one lost run too many and ended it.
            return Ok(());
        }
        let (claimed, ended) = self.work(claimed, planned).await;
        self.end(claimed, ended).await
    }

    /// Claims the task if governance lets it run. Nothing: this message needs no run.
    async fn claim(
        &self,
        message: &LaneMessage,
    ) -> Result<Option<(StoredTask, ClaimedPlan)>, HandlerError> {
        let stored = self.core.tasks().stored(&message.tenant, &message.task_id).await?;
        let Some(stored) = stored.filter(|stored| may_be_claimed(&stored.value, message)) else {
            tracing::debug!(task = %message.task_id, "pointer is void");
            return Ok(None);
        };
        let claiming = Claim { executor: self, message, plan: Mutex::default() };
        match self.core.tasks().execute_with_writes(stored, &claiming).await {
            Ok(claimed) => {
                let plan = claiming.plan.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(Some((claimed, plan)))
            }
            Err(CommandError::Service(ServiceError::Conflict { .. })) => {
                Err(HandlerError::retry(WRITE_AGAIN, "changed while being claimed"))
            }
            Err(CommandError::Service(error)) => Err(error.into()),
            Err(CommandError::Rejected { rejection, status }) => {
                self.unclaimed(message, rejection, status).await?;
                Ok(None)
            }
        }
    }

    /// What governance says; nothing where it is not asked.
    async fn judge(
        &self,
        stored: &StoredTask,
        payload: &Map<String, Value>,
    ) -> Result<Option<Verdict>, ServiceError> {
        if self.agent.acts() && stored.value.agent == self.agent.agent() {
            return self.core.authorizer().judge(stored, payload, Runner::Own).await.map(Some);
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
                Err(HandlerError::retry(after, "another run holds it"))
            }
            Rejection::NotYet { at } => {
                Err(HandlerError::retry(at.since(now), "it waits for its next try"))
            }
            Rejection::WrongAgent { agent } => self.reroute(message, agent).await,
            other => {
                tracing::debug!(task = %message.task_id, ?status, "pointer is void: {other}");
                Ok(())
            }
        }
    }

    /// The task goes back to its own agent's lane, and that is counted in it.
    async fn reroute(&self, message: &LaneMessage, right: Agent) -> Result<(), HandlerError> {
        let reached = self.agent.agent();
        tracing::warn!(task = %message.task_id, "task {} of {right} reached {reached}", message.task_id);
        let command = Command::Reroute { agent: reached };
        match self.core.tasks().command(&message.tenant, &message.task_id, &command).await {
            Ok(_) | Err(CommandError::Rejected { .. }) => Ok(()),
            Err(CommandError::Service(error)) => Err(error.into()),
        }
    }

    /// Does the work, within its time; a panic is this task's failure and nobody else's.
    async fn work(&self, claimed: StoredTask, plan: ClaimedPlan) -> (StoredTask, Ended) {
        let clock = self.core.clock().clone();
        let limit = self.core.rules().lease.run;
        let StoredTask { value, version, unknown, due } = claimed;
        let ClaimedPlan { payload, planned } = plan;
        let planned_for =
            planned.clone().map(|planned| PlannedFor { payload: payload.clone(), planned });
        let steps = Steps::of_run(self.core.clone(), &value).planned(planned_for.clone());
        let run = Run {
            payload,
            planned,
            steps: Some(steps.clone()),
            spending: Some(Spending::of_run(self.core.clone(), &value)),
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
                tracing::error!(task = %id, "agent panicked on task {id}: {reason}");
                RunEnd::retryable(format!("the agent broke off: {reason}"))
            }
            None => RunEnd::retryable(format!("not done within {} s", limit.as_secs())),
        };
        let read_only = !steps.changed_something();
        let ended = Ended { end, notes: run.notes.list(), read_only, planned: planned_for };
        (StoredTask { value: run.task, version, unknown, due }, ended)
    }

    /// Writes how it ended. What was done must not be lost to a store that is busy: tried
    /// until the lease is over, then the message comes back and the run is taken up again.
    async fn end(&self, claimed: StoredTask, ended: Ended) -> Result<(), HandlerError> {
        let task = &claimed.value;
        let (tenant, id) = (task.tenant.clone(), task.id.clone());
        let until = task.lease.as_ref().map_or(task.created_at, |lease| lease.until);
        let ending = self.end_run(task, ended, until).await?;
        let mut written = self.core.tasks().execute_with_writes(claimed, &ending).await;
        loop {
            match written {
                Ok(_) => return Ok(()),
                Err(CommandError::Rejected { rejection, status }) => {
                    tracing::info!(task = %id, ?status, "run of task {id} ends unheard: {rejection}");
                    return Ok(());
                }
                Err(CommandError::Service(error)) => {
                    if self.core.clock().now() >= until {
                        return Err(error.into());
                    }
                    tracing::warn!(task = %id, "ending of task {id} not written yet: {error}");
                    self.core.clock().sleep(WRITE_AGAIN).await;
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
        ended: Ended,
        until: Timestamp,
    ) -> Result<EndRun, HandlerError> {
        let Ended { mut end, notes, read_only, planned } = ended;
        let events = match &mut end {
            RunEnd::Done { events, .. } | RunEnd::Failed { events, .. } => std::mem::take(events),
            RunEnd::Blocked { .. } | RunEnd::Suspended { .. } | RunEnd::Withheld(_) => Vec::new(),
        };
        let how = self.ending(task, end, until).await?;
        let (core, fence) = (self.core.clone(), task.fence);
        Ok(EndRun { core, fence, how, events, notes, read_only, planned })
    }

    async fn ending(
        &self,
        task: &Task,
        end: RunEnd,
        until: Timestamp,
    ) -> Result<How, HandlerError> {
        let ending = match end {
            RunEnd::Done { result, .. } => return self.succeeded(task, &result, until).await,
            RunEnd::Withheld(withheld) => return Ok(How::Withheld(withheld)),
            RunEnd::Failed { error, retry: Retry::No, .. } => Ending::FailedForGood { error },
            RunEnd::Failed { error, retry: Retry::Yes { after }, .. } => {
                Ending::Failed { error, retry: after }
            }
            RunEnd::Blocked { reason, question } => Ending::Blocked { reason, question },
            RunEnd::Suspended { resume_at, note } => Ending::Suspended { resume_at, note },
        };
        Ok(How::Ended(ending, None))
    }

    /// A large result goes to the blob store first, which is asked for as long as the store is.
    async fn succeeded(
        &self,
        task: &Task,
        result: &Map<String, Value>,
        until: Timestamp,
    ) -> Result<How, HandlerError> {
        let (tenant, id) = (&task.tenant, &task.id);
        let placed = match self.core.tasks().place_result(tenant, id, result) {
            Ok(placed) => placed,
            // The work is done; running it again would only make the same again.
            Err(error) => {
                let error = format!("its result can't be kept: {error}");
                return Ok(How::Ended(Ending::FailedForGood { error }, None));
            }
        };
        loop {
            match self.core.tasks().put_result(tenant, id, &placed).await {
                Ok(write) => {
                    return Ok(How::Ended(Ending::Succeeded { result: placed.body }, write));
                }
                Err(error) if self.core.clock().now() >= until => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(task = %id, "result of task {id} not written yet: {error}");
                }
            }
            self.core.clock().sleep(WRITE_AGAIN).await;
        }
    }
}

/// What a run leaves behind.
struct Ended {
    end: RunEnd,
    notes: Vec<Note>,
    /// It changed nothing outside, as far as its journal knows.
    read_only: bool,
    planned: Option<PlannedFor>,
}

/// The payload of the state that was claimed, and the plan that governance let through.
#[derive(Default)]
struct ClaimedPlan {
    payload: Arc<Map<String, Value>>,
    planned: Option<Arc<Planned>>,
}

/// Claims a task for its agent, as governance judges the state that it is claimed in.
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
            proof: Proof::granted(state.version),
        };
        // What can't be claimed is not judged: nothing is to be written for it.
        if !may_be_claimed(&state.value, message) {
            return Ok(claim.into());
        }
        let payload = executor.core.tasks().payload(&state.value).await?;
        let verdict = executor.judge(state, &payload).await?;
        let planned = verdict.as_ref().map(|verdict| verdict.planned.clone());
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) =
            ClaimedPlan { payload: Arc::new(payload), planned };
        let Some(verdict) = verdict else { return Ok(claim.into()) };
        if let Command::Claim { proof, .. } = &mut claim {
            *proof = verdict.proof;
        }
        Ok(CommandWithWrites { command: claim, extra_writes: verdict.beside })
    }
}

/// Ends a run, with what belongs to its end.
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
    /// The write is of a result in an item of its own, which depends on the run alone.
    Ended(Ending, Option<Write>),
    Withheld(Withheld),
}

#[async_trait]
impl CommandBuilder for EndRun {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let core = &self.core;
        let held = state.value.status == Status::InProgress && state.value.fence == self.fence;
        let (ending, extra_writes) = match &self.how {
            How::Ended(ending, write) => (ending.clone(), write.iter().cloned().collect()),
            How::Withheld(said) => match &said.of {
                Some((call, version)) if held && state.version != *version => {
                    let payload = core.tasks().payload(&state.value).await?;
                    let known = self.planned.as_ref().and_then(|plan| plan.of(&payload));
                    let verdict = judge_call(core, state, &payload, known, call).await?;
                    (withheld(verdict.proof.leave, core.clock().now()), verdict.beside)
                }
                _ => (withheld(said.leave.clone(), core.clock().now()), said.beside.clone()),
            },
        };
        let earned = ending.earned(&core.rules().reputation);
        let reputation = earned.into_iter().collect();
        let outcome = Outcome { reputation, read_only: self.read_only, ..Outcome::default() };
        let (events, notes) = (self.events.clone(), self.notes.clone());
        let command = Command::End { fence: self.fence, ending, events, notes, outcome };
        Ok(CommandWithWrites { command, extra_writes })
    }
}

/// What governance says of one call of a run, by the plan that is known if it is of this payload.
pub(crate) async fn judge_call(
    core: &Core,
    state: &StoredTask,
    payload: &Map<String, Value>,
    known: Option<&Arc<Planned>>,
    call: &ToolCall,
) -> Result<Verdict, ServiceError> {
    match known {
        Some(planned) => {
            core.authorizer().judge_planned(state, payload, planned, Runner::Own, Some(call)).await
        }
        None => core.authorizer().judge_call(state, payload, Runner::Own, Some(call)).await,
    }
}

/// Whether a pointer can still mean this task, before anything else is read for it.
fn may_be_claimed(task: &Task, message: &LaneMessage) -> bool {
    matches!(task.status, Status::Assigned | Status::InProgress)
        && message.assignment >= task.assignment
}

/// How a run ends that governance did not let go on.
fn withheld(leave: Leave, now: Timestamp) -> Ending {
    match leave {
        Leave::Ask(asked) => Ending::Asks(asked),
        Leave::Refused { error, earned } => Ending::Refused { error, earned },
        Leave::Hold { until, why } => Ending::Held { until, why },
        // The task changed meanwhile, and as it is now it may: the run is taken up again.
        Leave::Granted { .. } => {
            Ending::Suspended { resume_at: now, note: "governance lets it go on now".to_owned() }
        }
    }
}
