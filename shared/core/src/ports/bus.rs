use async_trait::async_trait;

use crate::domain::{Event, EventType, TenantId};

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{failed} of {sent} events were not taken: {reason}")]
    Partial { sent: usize, failed: usize, reason: String },
    #[error("the event bus can't be reached: {reason}")]
    Down { reason: String },
}

/// Where recorded events go out: at least once, each recognisable by its `event_id`.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Whether anyone may want events of this type: others need not be made.
    fn wants(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        let _ = (tenant, event_type);
        true
    }

    /// An error means that some may not have been taken: publish all again.
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError>;
}
