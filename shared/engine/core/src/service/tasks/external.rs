//! Claims and endings of external workers, authorized for the state that they apply to.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use watchbill_domain::{Caller, Person, Status, Task};

use super::{CommandBuilder, CommandError, CommandWithWrites, StoredBody, Tasks};
use crate::decide::{
    Authorization, Claimant, Command, Rejection, RunResult, VersionedAuthorization, decide_on,
};
use crate::repo::StoredTask;
use crate::service::Runner;
use crate::service::approvals::stored_approval;

/// Claims or ends a task for an external worker, if governance authorizes it.
pub(super) struct ExternalChange<'a> {
    pub tasks: &'a Tasks,
    pub by: Claimant,
    /// `None`: the task is claimed.
    pub ending: Option<RunResult>,
    pub result: Option<StoredBody>,
    /// The name of an agent, where agents may decide on approvals: it must not run what it
    /// approved itself.
    pub may_have_approved: Option<String>,
    /// Why governance does not authorize it, if it does not.
    pub not_authorized: Mutex<Option<String>>,
}

#[async_trait]
impl CommandBuilder for ExternalChange<'_> {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let begins = state.value.status == Status::Assigned || state.value.not_built;
        let (authorization, mut extra_writes) = match begins {
            true => {
                let payload = self.tasks.payload(&state.value).await?;
                let change =
                    self.tasks.authorizer.authorize(state, &payload, Runner::External).await?;
                (change.authorization, change.extra_writes)
            }
            // Either it has begun, authorized, or it cannot begin whatever governance decides.
            false => (VersionedAuthorization::granted(state.version), Vec::new()),
        };
        let granted = authorization.decision.is_granted();
        *self.not_authorized.lock().unwrap_or_else(PoisonError::into_inner) =
            match &authorization.decision {
                Authorization::Granted { .. } => None,
                Authorization::ApprovalRequired(asked) => {
                    Some(format!("it waits for approval {}: {}", asked.approval, asked.reason))
                }
                Authorization::Denied { error, .. } => Some(error.clone()),
                Authorization::Deferred { why, .. } => Some(format!("it is deferred: {why}")),
            };
        if begins && granted {
            self.demand_another_approver(&state.value).await?;
        }
        let by = self.by.clone();
        let command = match &self.ending {
            None => Command::ClaimExternal { by, authorization },
            Some(ending) => Command::EndExternal { by, ending: ending.clone(), authorization },
        };
        if let (Some(result), true) = (&self.result, granted) {
            // Decided once in advance, so that a rejected ending leaves no blob behind.
            let task = state.value.clone();
            let status = Some(task.status);
            let (tenant, id) = (task.tenant.clone(), task.id.clone());
            decide_on(task, state.version, &command, &self.tasks.context.facts())
                .map_err(|rejection| CommandError::Rejected { rejection, status })?;
            extra_writes.extend(self.tasks.put_result(&tenant, &id, result).await?);
        }
        Ok(CommandWithWrites { command, extra_writes })
    }
}

impl ExternalChange<'_> {
    async fn demand_another_approver(&self, task: &Task) -> Result<(), CommandError> {
        let (Some(name), Some(approval)) = (&self.may_have_approved, &task.approval) else {
            return Ok(());
        };
        let approval =
            stored_approval(&self.tasks.context, &task.tenant, &approval.id).await?.value;
        let votes = approval.votes.iter().map(|vote| vote.by.as_str());
        let decided = approval.decision.iter().map(|decision| decision.by.as_str());
        if !Person::new(name, None).is_one_of(votes.chain(decided)) {
            return Ok(());
        }
        let why = format!("'{name}' has approved it, so another worker must run it");
        let (rejection, status) = (Rejection::NotAuthorized { why }, Some(task.status));
        Err(CommandError::Rejected { rejection, status })
    }
}

/// The owner of a lease that was claimed over HTTP.
pub(super) fn outside_owner(caller: &Caller) -> String {
    format!("worker:{}", caller.name)
}
