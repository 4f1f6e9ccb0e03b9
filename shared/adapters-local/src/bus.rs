use std::sync::Arc;

use async_trait::async_trait;
use watchbill_core::domain::{Event, EventType, TenantId};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, BusError};

/// Someone in this process who is told of events.
#[async_trait]
pub trait Subscriber: Send + Sync {
    fn name(&self) -> &'static str;

    fn wants(&self, event_type: &EventType) -> bool;

    /// `Retry` asks for the event again; `Reject` is logged and forgotten.
    async fn on_event(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError>;
}

/// The event bus within the process: every subscriber gets every event, at least once.
#[derive(Default)]
pub struct LocalBus {
    subscribers: Vec<Arc<dyn Subscriber>>,
}

impl LocalBus {
    pub fn new(subscribers: Vec<Arc<dyn Subscriber>>) -> Self {
        Self { subscribers }
    }
}

#[async_trait]
impl Bus for LocalBus {
    fn wants(&self, _tenant: &TenantId, event_type: &EventType) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.wants(event_type))
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let mut failed = 0;
        let mut reason = String::new();
        for subscriber in &self.subscribers {
            for event in events {
                match subscriber.on_event(tenant, event).await {
                    Ok(()) => {}
                    Err(HandlerError::Retry { reason: why, .. }) => {
                        failed += 1;
                        reason = format!("{}: {why}", subscriber.name());
                    }
                    Err(HandlerError::Reject { reason }) => {
                        let name = subscriber.name();
                        tracing::warn!(event = %event.event_id, "{name} rejects event {}: {reason}", event.event_id);
                    }
                }
            }
        }
        if failed > 0 {
            return Err(BusError::Partial { sent: events.len(), failed, reason });
        }
        Ok(())
    }
}
