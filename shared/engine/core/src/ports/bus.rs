use std::sync::Arc;

use async_trait::async_trait;

use watchbill_domain::{Event, EventId, EventType, TenantId};

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{failed} of {sent} events were not taken: {reason}")]
    Partial { sent: usize, failed: usize, reason: String },
    /// These are refused for what they hold, now and the next time; all others were taken.
    #[error("{} events are refused: {reason}", events.len())]
    Refused { events: Vec<EventId>, reason: String },
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

    /// An error, but for [`BusError::Refused`], means that some may not have been taken: publish
    /// all again.
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError>;
}

/// Several buses as one: each gets what it wants, and an error of one has all asked again. What
/// one refuses the next are not offered: it goes to them when the one takes it.
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
