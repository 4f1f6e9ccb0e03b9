use std::sync::Arc;
use std::time::Duration;

use super::budgets::Budgets;
use super::execute::{CommandBuilder, CommandSource, CommandWithWrites};
use super::figures::Figures;
use super::log;
use super::standing::Standings;
use super::unreadable::Unreadables;
use super::{Governance, ServiceError};
use crate::decide::{Command, Facts, Rejection, Rules, decide_on};
use crate::ledger::LedgerReader;
use crate::offload::Offload;
use crate::ports::{
    Blobs, Clock, Commit, CommitError, Entropy, Item, Store, StoreError, Topic, Wake, Write,
};
use crate::repo::{self, Before, StoredTask, TaskWrite, budget_key, decode, refused_by};
use watchbill_domain::{Status, TaskId, TenantId};
use watchbill_governance::{PlainPlanner, Planner};

/// How often a decision is taken again after a conflict before the caller is told to.
const CONFLICTS: u32 = 16;
/// How often a busy store is asked again.
const BUSY: u32 = 8;

/// The ports the service works with.
#[derive(Clone)]
pub struct Ports {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub wake: Arc<dyn Wake>,
}

/// Everything that handlers call. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    ports: Ports,
    rules: Arc<Rules>,
    epoch: u64,
    planner: Arc<dyn Planner>,
    governance: Governance,
    standings: Standings,
    budgets: Budgets,
    figures: Figures,
    offload: Offload,
    unreadables: Unreadables,
}

/// Why a command on a task was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{rejection}")]
    Rejected { rejection: Rejection, status: Option<Status> },
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Core {
    /// `epoch`: the store's present one; leases of earlier epochs are void.
    pub fn new(ports: Ports, rules: Arc<Rules>, epoch: u64) -> Self {
        Self {
            ports,
            rules,
            epoch,
            planner: Arc::new(PlainPlanner),
            governance: Governance::default(),
            standings: Standings::default(),
            budgets: Budgets::default(),
            figures: Figures::default(),
            offload: Offload::default(),
            unreadables: Unreadables::default(),
        }
    }

    /// The same, with someone who knows what agents would do.
    #[must_use]
    pub fn planned_by(self, planner: Arc<dyn Planner>) -> Self {
        Self { planner, ..self }
    }

    /// The same, under this policy instead of the built-in one.
    #[must_use]
    pub fn governed_by(self, governance: Governance) -> Self {
        Self { governance, ..self }
    }

    pub fn governance(&self) -> &Governance {
        &self.governance
    }

    pub(super) fn standings(&self) -> &Standings {
        &self.standings
    }

    pub(super) fn unreadables(&self) -> &Unreadables {
        &self.unreadables
    }

    pub(super) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }

    pub(crate) fn planner(&self) -> &dyn Planner {
        &*self.planner
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.ports.store
    }

    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.ports.blobs
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.ports.clock
    }

    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.ports.entropy
    }

    pub fn wake(&self) -> &Arc<dyn Wake> {
        &self.ports.wake
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Where long work is done.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// A tenant's ledger, read within the bound on long work.
    pub fn ledger(&self, tenant: &TenantId) -> LedgerReader {
        LedgerReader::new(self.ports.store.clone(), tenant.clone()).within(self.offload.clone())
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn facts(&self) -> Facts<'_> {
        Facts {
            now: self.ports.clock.now(),
            epoch: self.epoch,
            random: self.ports.entropy.next_u64(),
            rules: &self.rules,
        }
    }

    /// Reads a task's header.
    pub async fn stored_task(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> Result<Option<StoredTask>, ServiceError> {
        let item = self.ports.store.get(&repo::task_key(tenant, id)).await?;
        Ok(item.as_ref().map(decode).transpose()?)
    }

    /// Loads, decides, commits; on a conflict decides again on what is there now.
    pub async fn command(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        command: &Command,
    ) -> Result<StoredTask, CommandError> {
        match self.stored_task(tenant, id).await? {
            Some(state) => self.command_on(state, command).await,
            None => Err(CommandError::Rejected { rejection: Rejection::Absent, status: None }),
        }
    }

    /// The same on a state in hand.
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
        for _ in 0..CONFLICTS {
            let built;
            let (command, extra_writes) = match source {
                CommandSource::Fixed(command) => (command, Vec::new()),
                CommandSource::Built(builder) => {
                    let CommandWithWrites { command, extra_writes } =
                        builder.build(self, &state).await?;
                    built = command;
                    (&built, extra_writes)
                }
            };
            let facts = self.facts();
            let StoredTask { value, version, unknown, due } = state;
            let status = value.status;
            let decided = decide_on(value, version, command, &facts)
                .map_err(|rejection| CommandError::Rejected { rejection, status: Some(status) })?;
            let before = Some(Before { version, unknown: unknown.as_deref(), due });
            let write = TaskWrite { decided: &decided, before, now: facts.now, rules: &self.rules };
            let mut writes = write.writes();
            let due = match &writes[0] {
                Write::Put { item, .. } => item.due,
                _ => None,
            };
            let extra_keys: Vec<_> = extra_writes.iter().map(|write| write.key().clone()).collect();
            writes.extend(extra_writes);
            let Some(conflict) = self.commit(writes).await? else {
                log::change(&decided);
                self.wake_task(&decided.task.tenant, &decided.task.id);
                if decided.task.waits_outside() {
                    self.ports.wake.wake(&Topic::External(decided.task.tenant.clone()));
                }
                if let Some(moved) = &decided.budget {
                    self.tell_marks(&decided.task, moved).await;
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
                // There was room again before we looked.
            } else if !extra_keys.contains(&key) {
                return Err(Conflict { key, item }.gone().into());
            }
            let gone = CommandError::Rejected { rejection: Rejection::Absent, status: None };
            state = self.stored_task(tenant, id).await?.ok_or(gone)?;
        }
        Err(ServiceError::Busy { after: Duration::from_millis(50) }.into())
    }

    /// Commits, again where the store is busy or its answer was lost. Answers the conflict,
    /// where there is one.
    pub(crate) async fn commit(
        &self,
        writes: Vec<Write>,
    ) -> Result<Option<Conflict>, ServiceError> {
        let id = self.ports.entropy.write_id();
        for attempt in 0.. {
            let commit = Commit { id, writes: writes.clone() };
            let after = match self.ports.store.commit(commit).await {
                Ok(()) => return Ok(None),
                Err(CommitError::Conflict { key, current }) => {
                    return Ok(Some(Conflict { key, item: current }));
                }
                Err(CommitError::Busy { after }) => after,
                // The same write id again: if it had happened, the answer is our own success.
                Err(CommitError::Unknown { .. }) => Duration::from_millis(5),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Illegal { reason }) => {
                    return Err(ServiceError::Down { reason: format!("illegal commit: {reason}") });
                }
            };
            if attempt >= BUSY {
                return Err(ServiceError::Busy { after });
            }
            let fraction = (self.ports.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let wait = after.saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(2));
            self.ports.clock.sleep(wait.mul_f64(0.5 + fraction / 2.0)).await;
        }
        unreachable!("the loop returns")
    }

    pub(crate) fn wake_task(&self, tenant: &TenantId, id: &TaskId) {
        self.ports.wake.wake(&Topic::Task(tenant.clone(), id.clone()));
    }
}

/// Which condition of a commit did not hold.
pub(crate) struct Conflict {
    pub key: crate::ports::Key,
    pub item: Option<Box<Item>>,
}

impl Conflict {
    pub fn gone(self) -> ServiceError {
        ServiceError::Conflict {
            message: format!("{} was changed by someone else at the same time", self.key),
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy { after } => ServiceError::Busy { after },
            // A rolling deployment: the newer build will answer.
            StoreError::Newer { .. } => ServiceError::Busy { after: Duration::from_secs(5) },
            StoreError::BadCursor(cursor) => ServiceError::Invalid {
                field: "cursor",
                message: format!(
                    "'{cursor}' is no cursor of this list; leave it out to start anew"
                ),
            },
            StoreError::Corrupt { key, reason } => ServiceError::Unreadable { key, reason },
            other => ServiceError::Down { reason: other.to_string() },
        }
    }
}

impl CommandError {
    /// As a caller should read it.
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
