//! Claims and endings of external workers, as governance judges the state that they meet.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use watchbill_domain::{Caller, Person, Status, Task};

use super::{CommandBuilder, CommandError, CommandWithWrites, Placed, Tasks};
use crate::decide::{Claimant, Command, Ending, Leave, Proof, Rejection, decide_on};
use crate::repo::StoredTask;
use crate::service::Runner;
use crate::service::approvals::stored_approval;

/// Claims or ends a task for a worker outside, if governance lets it.
pub(super) struct ExternalChange<'a> {
    pub tasks: &'a Tasks,
    pub by: Claimant,
    /// Nothing: it is claimed.
    pub ending: Option<Ending>,
    pub result: Option<Placed>,
    /// The name of an agent, where agents may decide on approvals: it does not run what it
    /// approved itself.
    pub may_have_approved: Option<String>,
    /// Why governance does not let it, where it doesn't.
    pub withheld: Mutex<Option<String>>,
}

#[async_trait]
impl CommandBuilder for ExternalChange<'_> {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let begins = state.value.status == Status::Assigned || state.value.not_built;
        let (proof, mut beside) = match begins {
            true => {
                let payload = self.tasks.payload(&state.value).await?;
                let verdict = self.tasks.authorizer.judge(state, &payload, Runner::Outside).await?;
                (verdict.proof, verdict.beside)
            }
            // It has begun, with leave; or it can't, whatever governance says.
            false => (Proof::granted(state.version), Vec::new()),
        };
        let granted = proof.leave.is_granted();
        *self.withheld.lock().unwrap_or_else(PoisonError::into_inner) = match &proof.leave {
            Leave::Granted { .. } => None,
            Leave::Ask(asked) => {
                Some(format!("it waits for approval {}: {}", asked.approval, asked.reason))
            }
            Leave::Refused { error, .. } => Some(error.clone()),
            Leave::Hold { why, .. } => Some(format!("it waits: {why}")),
        };
        if begins && granted {
            self.demand_another_approver(&state.value).await?;
        }
        let by = self.by.clone();
        let command = match &self.ending {
            None => Command::ClaimOutside { by, proof },
            Some(ending) => Command::EndOutside { by, ending: ending.clone(), proof },
        };
        if let (Some(result), true) = (&self.result, granted) {
            // Decided once before, so that what is refused leaves no blob behind.
            let task = state.value.clone();
            let status = Some(task.status);
            let (tenant, id) = (task.tenant.clone(), task.id.clone());
            decide_on(task, state.version, &command, &self.tasks.context.facts())
                .map_err(|rejection| CommandError::Rejected { rejection, status })?;
            beside.extend(self.tasks.put_result(&tenant, &id, result).await?);
        }
        Ok(CommandWithWrites { command, extra_writes: beside })
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
        let (rejection, status) = (Rejection::Withheld { why }, Some(task.status));
        Err(CommandError::Rejected { rejection, status })
    }
}

/// Who holds a lease that was taken over HTTP.
pub(super) fn outside_owner(caller: &Caller) -> String {
    format!("worker:{}", caller.name)
}
