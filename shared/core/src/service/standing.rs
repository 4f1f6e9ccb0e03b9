use super::ServiceError;
use super::core::Core;
use crate::domain::{Agent, TenantId};
use crate::govern::{ReputationFold, Standing};

impl Core {
    /// Where an agent stands now; at most a second old.
    pub async fn standing(
        &self,
        tenant: &TenantId,
        agent: Agent,
    ) -> Result<Standing, ServiceError> {
        let _ = tenant;
        let now = self.clock().now();
        Ok(ReputationFold::default().standing(agent, now, &self.rules().reputation))
    }
}
