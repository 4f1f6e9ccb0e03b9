//! Delivers what the notify lane holds to a webhook, and does nothing else: what is worth
//! telling was decided before.
//!
//! How to add a channel: another port beside `Webhook`, and its delivery here.

use std::sync::Arc;

use watchbill_core::domain::{Event, TenantId};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Webhook;
use watchbill_wire::webhook_body;

pub struct Notifier {
    webhook: Option<Arc<dyn Webhook>>,
}

impl Notifier {
    /// Without a webhook every notice is logged and dropped, which is said in the log.
    pub fn new(webhook: Option<Arc<dyn Webhook>>) -> Self {
        Self { webhook }
    }

    /// The event's id goes along, so that the other side can tell a repeat.
    pub async fn deliver(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        let Some(webhook) = &self.webhook else {
            let reason = format!(
                "no webhook is set up for {} {}; set WATCHBILL_WEBHOOK_URL",
                event.event_type, event.event_id
            );
            return Err(HandlerError::Reject { reason });
        };
        let body = serde_json::to_vec(&webhook_body(tenant, event)).expect("plain JSON");
        webhook.post(event.event_id.as_str(), &body).await
    }
}
