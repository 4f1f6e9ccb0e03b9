//! The event bus port.

use std::sync::Arc;

use async_trait::async_trait;

use watchbill_domain::{Event, EventId, EventType, TenantId};

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{failed} of {sent} events were not accepted: {reason}")]
    Partial { sent: usize, failed: usize, reason: String },
    /// These are refused because of their content, now and on every retry; all others were
    /// accepted.
    #[error("{} events are refused: {reason}", events.len())]
    Refused { events: Vec<EventId>, reason: String },
    #[error("the event bus can't be reached: {reason}")]
    Down { reason: String },
}

/// The outbound event bus: at-least-once delivery, duplicates identified by `event_id`.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Whether any consumer may want events of this type; others need not be built.
    fn wants(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        let _ = (tenant, event_type);
        true
    }

    /// An error other than [`BusError::Refused`] means that some events may not have been
    /// accepted: publish all again.
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError>;
}

/// Several buses as one: each gets the events it wants, and an error of one makes the caller
/// publish all again. A refused event reaches the buses after the refusing one only once that
/// one accepts it.
pub struct Buses(pub Vec<Arc<dyn Bus>>);

#[async_trait]
impl Bus for Buses {
    fn wants(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        self.0.iter().any(|bus| bus.wants(tenant, event_type))
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let (mut refused, mut why) = (Vec::new(), String::new());
        for bus in &self.0 {
            let wanted: Vec<Event> = events
                .iter()
                .filter(|event| bus.wants(tenant, &event.event_type))
                .filter(|event| !refused.contains(&event.event_id))
                .cloned()
                .collect();
            if wanted.is_empty() {
                continue;
            }
            match bus.publish(tenant, &wanted).await {
                Err(BusError::Refused { events, reason }) => {
                    refused.extend(events);
                    why = reason;
                }
                other => other?,
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(BusError::Refused { events: refused, reason: why }),
        }
    }
}
