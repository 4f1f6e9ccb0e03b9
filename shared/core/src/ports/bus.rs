use std::sync::Arc;

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

/// Several buses as one: each gets what it wants, and an error of one has all asked again.
pub struct Buses(pub Vec<Arc<dyn Bus>>);

#[async_trait]
impl Bus for Buses {
    fn wants(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        self.0.iter().any(|bus| bus.wants(tenant, event_type))
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        for bus in &self.0 {
            let wanted: Vec<Event> = events
                .iter()
                .filter(|event| bus.wants(tenant, &event.event_type))
                .cloned()
                .collect();
            if !wanted.is_empty() {
                bus.publish(tenant, &wanted).await?;
            }
        }
        Ok(())
    }
}
