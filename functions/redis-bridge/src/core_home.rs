//! The bundle in the same process, or the same handlers over the same store on AWS.

use watchbill_core::domain::TenantId;
use watchbill_core::service::Core;

/// The bundle over its core.
pub struct CoreHome {
    core: Core,
    tenant: TenantId,
}

impl CoreHome {
    pub fn new(core: Core, tenant: TenantId) -> Self {
        Self { core, tenant }
    }
}
