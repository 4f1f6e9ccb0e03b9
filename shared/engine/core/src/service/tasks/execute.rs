//! Commands: load, decide, commit, and decide again on a conflict.
//!
//! A commit may hold extra writes, such as the approval that a task then waits for. A caller
//! with extra writes implements [`CommandBuilder`]: command and writes are built from the state
//! that the command is decided on, again for each attempt. Writes that were built from an older
//! state cannot be passed in.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{Status, TaskId, TenantId};

use super::Tasks;
use crate::decide::{Command, Rejection, decide_on};
use crate::ports::{Topic, Write};
use crate::repo::{self, PreviousState, StoredTask, TaskWrite, budget_key, decode, refused_by};
use crate::service::{Conflict, ServiceError, log};

/// How often a decision is repeated after a conflict before the caller gets an error.
const MAX_CONFLICTS: u32 = 16;

/// A command, and the extra writes of its commit.
pub struct CommandWithWrites {
    pub command: Command,
    pub extra_writes: Vec<Write>,
}

impl From<Command> for CommandWithWrites {
    fn from(command: Command) -> Self {
        Self { command, extra_writes: Vec::new() }
    }
}

/// Builds a command and its extra writes from a task's state. It is called again with the
/// current state after each conflict, including one on a key of its extra writes, so it must
/// read everything else within the call.
#[async_trait]
pub trait CommandBuilder: Send + Sync {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError>;
}

/// Where an attempt's command comes from.
#[derive(Clone, Copy)]
enum CommandSource<'a> {
    /// The same for every state, without extra writes.
    Fixed(&'a Command),
    Built(&'a dyn CommandBuilder),
}

/// Why a command on a task was not executed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{rejection}")]
    Rejected { rejection: Rejection, status: Option<Status> },
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Tasks {
    /// Loads, decides, commits; on a conflict decides again on the current state.
    pub async fn command(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        command: &Command,
    ) -> Result<StoredTask, CommandError> {
        match self.stored(tenant, id).await? {
            Some(state) => self.command_on(state, command).await,
            None => Err(CommandError::Rejected { rejection: Rejection::Absent, status: None }),
        }
    }

    /// The same on a state that is already loaded.
    pub async fn command_on(
        &self,
        state: StoredTask,
        command: &Command,
    ) -> Result<StoredTask, CommandError> {
        self.execute(state, CommandSource::Fixed(command)).await
    }

    /// The same with extra writes: command and writes are built from the state that the command
    /// is decided on, again after each conflict.
    pub async fn execute_with_writes(
        &self,
        state: StoredTask,
        builder: &dyn CommandBuilder,
    ) -> Result<StoredTask, CommandError> {
        self.execute(state, CommandSource::Built(builder)).await
    }

    async fn execute(
        &self,
        mut state: StoredTask,
        source: CommandSource<'_>,
    ) -> Result<StoredTask, CommandError> {
        for _ in 0..MAX_CONFLICTS {
            let built;
            let (command, extra_writes) = match source {
                CommandSource::Fixed(command) => (command, Vec::new()),
                CommandSource::Built(builder) => {
                    let CommandWithWrites { command, extra_writes } = builder.build(&state).await?;
                    built = command;
                    (&built, extra_writes)
                }
            };
            let facts = self.context.facts();
            let StoredTask { value, version, unknown, due } = state;
            let status = value.status;
            let decided = decide_on(value, version, command, &facts)
                .map_err(|rejection| CommandError::Rejected { rejection, status: Some(status) })?;
            let before = Some(PreviousState { version, unknown: unknown.as_deref(), due });
            let write = TaskWrite { decided: &decided, before, now: facts.now, rules: facts.rules };
            let mut writes = write.writes();
            let due = match &writes[0] {
                Write::Put { item, .. } => item.due,
                _ => None,
            };
            let extra_keys: Vec<_> = extra_writes.iter().map(|write| write.key().clone()).collect();
            writes.extend(extra_writes);
            let Err(conflict) = self.context.transact(writes).await.map_err(ServiceError::from)?
            else {
                log::change(&decided);
                self.context.wake_task(&decided.task.tenant, &decided.task.id);
                if decided.task.waits_outside() {
                    self.context.wake().wake(&Topic::External(decided.task.tenant.clone()));
                }
                if let Some(moved) = &decided.budget {
                    self.budgets.tell_marks(&decided.task, moved).await;
                }
                return Ok(StoredTask {
                    value: decided.task,
                    version: decided.version,
                    unknown,
                    due,
                });
            };
            let (tenant, id) = (&decided.task.tenant, &decided.task.id);
            let Conflict { key, item } = conflict;
            let budget = decided.budget.as_ref().filter(|m| key == budget_key(tenant, m.at));
            if key == repo::task_key(tenant, id) {
                if let Some(item) = item {
                    state = decode(&item).map_err(ServiceError::from)?;
                    continue;
                }
            } else if let Some(moved) = budget {
                if let Some(exceeded) = refused_by(item.as_deref(), moved) {
                    let rejection = Rejection::OverBudget(exceeded);
                    return Err(CommandError::Rejected { rejection, status: Some(status) });
                }
                // There was room again by the time of the read.
            } else if !extra_keys.contains(&key) {
                return Err(Conflict { key, item }.into_error().into());
            }
            let gone = CommandError::Rejected { rejection: Rejection::Absent, status: None };
            state = self.stored(tenant, id).await?.ok_or(gone)?;
        }
        Err(ServiceError::Busy { after: Duration::from_millis(50) }.into())
    }
}

impl CommandError {
    /// The error as a caller should read it.
    pub fn into_service(self, id: &TaskId) -> ServiceError {
        match self {
            CommandError::Service(error) => error,
            CommandError::Rejected { rejection: Rejection::Absent, .. } => {
                ServiceError::NotFound { what: "task", id: id.to_string() }
            }
            CommandError::Rejected { rejection, status } => {
                let now = status.map(|status| format!("; it is {status} now"));
                ServiceError::Conflict {
                    message: format!("task '{id}': {rejection}{}", now.unwrap_or_default()),
                }
            }
        }
    }
}
