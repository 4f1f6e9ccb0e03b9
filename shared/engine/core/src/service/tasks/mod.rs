//! Tasks: read, and changed by commands.
//!
//! - `create`, `change`, `overrides`: changes by callers and people.
//! - `list`, `timeline`, `bodies`: reads.
//! - `execute`: turns a command into a commit. `external`: commands of external workers.

mod bodies;
mod change;
mod create;
mod execute;
mod external;
mod list;
mod overrides;
mod timeline;

use watchbill_domain::{TaskId, TenantId};
use watchbill_governance::CallCost;

use super::{Authorizer, Budgets, Context, ServiceError};
use crate::decide::Command;
use crate::repo::{self, StoredTask};

pub use bodies::StoredBody;
pub use execute::{CommandBuilder, CommandError, CommandWithWrites};
pub use timeline::older_log;

/// Creates, reads, lists and changes tasks. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    context: Context,
    authorizer: Authorizer,
    budgets: Budgets,
}

impl Tasks {
    pub(super) fn new(context: Context, authorizer: Authorizer, budgets: Budgets) -> Self {
        Self { context, authorizer, budgets }
    }

    /// A task's header, as it is stored.
    pub async fn stored(
        &self,
        tenant: &TenantId,
        id: &TaskId,
    ) -> Result<Option<StoredTask>, ServiceError> {
        self.context.load(&repo::task_key(tenant, id)).await
    }

    /// Reserves the maximum that a model call can cost, for the run that holds the task.
    pub async fn reserve(
        &self,
        tenant: &TenantId,
        id: &TaskId,
        fence: u64,
        quote: impl Into<CallCost>,
    ) -> Result<StoredTask, CommandError> {
        let (quote, limits) = (quote.into(), self.budgets.limits(tenant).await?);
        self.command(tenant, id, &Command::Reserve { fence, quote, limits }).await
    }
}

fn not_found(id: &TaskId) -> ServiceError {
    ServiceError::NotFound { what: "task", id: id.to_string() }
}
