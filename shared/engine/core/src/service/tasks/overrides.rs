//! Lets a task pass a freeze.

use watchbill_domain::{Caller, Role, TaskId};
use watchbill_governance::{Freeze, Policy};

use super::Tasks;
use crate::decide::Command;
use crate::service::{FullTask, ServiceError};

impl Tasks {
    /// Lets one task pass one freeze, if the freeze allows this caller to.
    pub async fn override_freeze(
        &self,
        caller: &Caller,
        id: &TaskId,
        freeze: &str,
        reason: &str,
    ) -> Result<FullTask, ServiceError> {
        let governance = self.authorizer.governance();
        let policy = governance.policies().current().await.map_err(|error| {
            governance.set_degraded(true);
            ServiceError::Down { reason: error.to_string() }
        })?;
        let named = policy.freezes.iter().find(|known| known.name == freeze);
        let named = named.ok_or_else(|| unknown(freeze, &policy))?;
        if !named.may_override(&caller.name, caller.role) {
            return Err(not_by(caller, named));
        }
        let command = Command::Override {
            freeze: freeze.to_owned(),
            by: caller.name.clone(),
            reason: reason.to_owned(),
        };
        let tenant = &caller.tenant;
        self.command(tenant, id, &command).await.map_err(|error| error.into_service(id))?;
        tracing::info!(task = %id, freeze, by = %caller.name, "the task may pass the freeze");
        self.get(tenant, id).await
    }
}

fn unknown(freeze: &str, policy: &Policy) -> ServiceError {
    let names: Vec<_> = policy.freezes.iter().map(|freeze| freeze.name.as_str()).collect();
    let known = match names.is_empty() {
        true => "the policy has none".to_owned(),
        false => format!("the policy has {}", names.join(", ")),
    };
    let message = format!("freeze '{freeze}' not found: {known}");
    ServiceError::Invalid { field: "freeze", message }
}

fn not_by(caller: &Caller, freeze: &Freeze) -> ServiceError {
    let roles =
        freeze.override_roles.iter().map(|role| format!("the role '{}'", Role::as_str(*role)));
    let names = freeze.override_names.iter().map(|name| format!("'{name}'"));
    let who: Vec<_> = roles.chain(names).collect();
    let who = if who.is_empty() { "nobody".to_owned() } else { who.join(", ") };
    ServiceError::Forbidden {
        message: format!("'{}' may not override freeze '{}': {who} may", caller.name, freeze.name),
    }
}
