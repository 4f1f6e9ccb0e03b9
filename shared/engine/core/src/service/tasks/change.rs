//! Changes of a task by workers, callers and people: set its status, cancel, retry, answer.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use watchbill_domain::{Approval, Caller, ReputationEvent, Role, ScoreDelta, Status, Task, TaskId};
use watchbill_redact as redact;

use super::external::{ExternalChange, outside_owner};
use super::{CommandBuilder, CommandError, CommandWithWrites, Tasks, not_found};
use crate::decide::{ApprovalCommand, Claimant, Command, Rejection, RunResult, decide_approval};
use crate::ports::{Precondition, Write};
use crate::repo::{self, StoredTask, encode};
use crate::service::approvals::waits_for;
use crate::service::{
    FullTask, Identity, NewTask, ServiceError, StatusChange, StatusSet, WorkerClaim,
};

impl Tasks {
    /// Sets a task's status on behalf of a worker or caller.
    pub async fn set_status(
        &self,
        caller: &Caller,
        id: &TaskId,
        change: StatusChange,
    ) -> Result<FullTask, ServiceError> {
        let set = self.set_status_as(caller, id, change, WorkerClaim::default()).await?;
        Ok(set.task)
    }

    /// The same for one of the workers that share the caller's key.
    pub async fn set_status_as(
        &self,
        caller: &Caller,
        id: &TaskId,
        change: StatusChange,
        of: WorkerClaim,
    ) -> Result<StatusSet, ServiceError> {
        let reason = change.error.map(|error| redact::text(&error).into_owned());
        let mut result = None;
        let ending = match change.status {
            Status::Cancelled => return self.cancel_as(caller, id, reason, of.fence).await,
            Status::InProgress => None,
            Status::Completed => {
                // The result may be shown and sent from here on.
                let mut object = change.result.unwrap_or_default();
                redact::object(&mut object);
                let placed = self.place_result(&caller.tenant, id, &object)?;
                let ending = RunResult::Succeeded { result: placed.body.clone() };
                result = Some(placed);
                Some(ending)
            }
            Status::Failed => {
                let error = reason.unwrap_or_else(|| "failed, no reason given".to_owned());
                Some(RunResult::FailedForGood { error })
            }
            Status::Blocked => {
                let reason = reason.unwrap_or_else(|| "blocked, no reason given".to_owned());
                Some(RunResult::Blocked { reason, question: None })
            }
            status @ (Status::Pending | Status::Assigned) => {
                let message = format!(
                    "a caller can't set a task to {status}; use /retry or /answer to resume it"
                );
                return Err(ServiceError::Conflict { message });
            }
        };
        let state = self.stored(&caller.tenant, id).await?.ok_or_else(|| not_found(id))?;
        let change = ExternalChange {
            tasks: self,
            by: Claimant { owner: outside_owner(caller), worker: of.worker, fence: of.fence },
            ending,
            result,
            may_have_approved: (self.context.rules().agents_approve && caller.role == Role::Agent)
                .then(|| caller.name.clone()),
            not_authorized: Mutex::new(None),
        };
        let set = self.execute_with_writes(state, &change).await;
        let fence = set.map_err(|error| error.into_service(id))?.value.fence;
        match change.not_authorized.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(StatusSet { task: self.get(&caller.tenant, id).await?, fence }),
            Some(why) => Err(ServiceError::Conflict { message: format!("task '{id}': {why}") }),
        }
    }

    pub async fn cancel(
        &self,
        caller: &Caller,
        id: &TaskId,
        reason: Option<String>,
    ) -> Result<FullTask, ServiceError> {
        Ok(self.cancel_as(caller, id, reason, None).await?.task)
    }

    async fn cancel_as(
        &self,
        caller: &Caller,
        id: &TaskId,
        reason: Option<String>,
        fence: Option<u64>,
    ) -> Result<StatusSet, ServiceError> {
        let state = self.stored(&caller.tenant, id).await?.ok_or_else(|| not_found(id))?;
        let cancel = Cancel { tasks: self, by: caller.name.clone(), reason, fence };
        let set = self.execute_with_writes(state, &cancel).await;
        let fence = set.map_err(|error| error.into_service(id))?.value.fence;
        Ok(StatusSet { task: self.get(&caller.tenant, id).await?, fence })
    }

    /// The write that closes the open approval of a task, if it has one.
    async fn close_approval(
        &self,
        state: &StoredTask,
        command: &ApprovalCommand,
    ) -> Result<Vec<Write>, ServiceError> {
        let Some(open) =
            state.value.approval.as_ref().filter(|open| waits_for(&state.value, &open.id))
        else {
            return Ok(Vec::new());
        };
        let key = repo::approval_key(&state.value.tenant, &open.id);
        let Some(stored) = self.context.load::<Approval>(&key).await? else {
            return Ok(Vec::new());
        };
        let now = self.context.clock().now();
        let Ok(closed) = decide_approval(&stored.value, command, now, self.context.rules()) else {
            return Ok(Vec::new());
        };
        let item = encode(&closed, stored.unknown.as_deref());
        Ok(vec![Write::Put { item, expect: Precondition::Version(stored.version) }])
    }

    /// Retries a task: at once if it waits for its next retry or for a person. For a failed or
    /// cancelled task a new one is created, because an ended task stays ended.
    pub async fn retry(&self, caller: &Caller, id: &TaskId) -> Result<FullTask, ServiceError> {
        let command = Command::RetryNow { by: caller.name.clone() };
        match self.command(&caller.tenant, id, &command).await {
            Ok(_) => self.get(&caller.tenant, id).await,
            Err(CommandError::Rejected {
                rejection: Rejection::Illegal { status: Status::Failed | Status::Cancelled, .. },
                ..
            }) => self.retry_ended(caller, id).await,
            Err(error) => Err(error.into_service(id)),
        }
    }

    async fn retry_ended(&self, caller: &Caller, id: &TaskId) -> Result<FullTask, ServiceError> {
        let ended = self.get(&caller.tenant, id).await?;
        let mut metadata = ended.task.metadata.clone();
        metadata.insert("retry_of".into(), Value::from(id.as_str()));
        let new = NewTask {
            tenant: caller.tenant.clone(),
            task_type: ended.task.task_type,
            priority: ended.task.priority,
            source: ended.task.source.clone(),
            payload: ended.payload,
            metadata,
            sla_target: None,
            sla_deadline: None,
            parent: ended.task.parent.clone(),
            trace_id: Some(ended.task.trace_id.clone()),
            max_retries: Some(ended.task.max_retries),
            created_by: caller.name.clone(),
            also_requested_by: requesters(caller, &ended.task),
            // One retry per task, however often it is requested; the next retry is of the retry.
            identity: Identity::Retry {
                of: id.clone(),
                failure_counted: failure_has_counted(&ended.task),
            },
            hops: ended.task.hops,
        };
        Ok(self.create(new).await?.task)
    }

    pub async fn answer(
        &self,
        caller: &Caller,
        id: &TaskId,
        answer: String,
    ) -> Result<FullTask, ServiceError> {
        let command = Command::Answer { by: caller.name.clone(), answer };
        self.command(&caller.tenant, id, &command).await.map_err(|e| e.into_service(id))?;
        self.get(&caller.tenant, id).await
    }
}

/// Cancels a task, and closes the approval that it waits for.
struct Cancel<'a> {
    tasks: &'a Tasks,
    by: String,
    reason: Option<String>,
    fence: Option<u64>,
}

#[async_trait]
impl CommandBuilder for Cancel<'_> {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let (by, reason) = (self.by.clone(), self.reason.clone());
        let close = ApprovalCommand::Close { by: by.clone(), reason: reason.clone() };
        let extra_writes = self.tasks.close_approval(state, &close).await?;
        let command = Command::Cancel { by, reason, fence: self.fence };
        Ok(CommandWithWrites { command, extra_writes })
    }
}

/// The requesters of a task that is retried as a new one, in order, starting with the first.
fn requesters(caller: &Caller, ended: &Task) -> Vec<String> {
    let first = std::iter::once(&ended.created_by).chain(&ended.also_requested_by);
    first.chain(&caller.made_by).cloned().collect()
}

/// Whether it has failed and the failure has reduced its agent's score, here or in the task
/// that it retries.
fn failure_has_counted(task: &Task) -> bool {
    let failure = |score_delta: &ScoreDelta| score_delta.0 == ReputationEvent::TaskFailure;
    let counted = task.outcome.iter().any(|outcome| outcome.reputation.iter().any(failure));
    task.failure_counted || (task.status == Status::Failed && counted)
}
