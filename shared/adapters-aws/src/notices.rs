//! The notify lane on SQS, filled like a bus with those events that someone should be told of.

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use watchbill_core::domain::{Event, EventType, TenantId};
use watchbill_core::ports::{Bus, BusError};
use watchbill_wire::NoticeForm;

/// SQS takes so many messages in one call.
const BATCH: usize = 10;

pub struct SqsNotices {
    client: Client,
    url: String,
    types: Vec<String>,
}

impl SqsNotices {
    /// `types`: the event types that are worth a notice.
    pub fn new(client: Client, url: String, types: Vec<String>) -> Self {
        Self { client, url, types }
    }
}

#[async_trait]
impl Bus for SqsNotices {
    fn wants(&self, _tenant: &TenantId, event_type: &EventType) -> bool {
        self.types.iter().any(|wanted| wanted == event_type.as_str())
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let entry = |(place, event): (usize, &Event)| {
            SendMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .message_body(NoticeForm::write(tenant, event))
                .message_group_id(tenant.as_str())
                .build()
                .expect("id and body are set")
        };
        let wanted: Vec<&Event> =
            events.iter().filter(|event| self.wants(tenant, &event.event_type)).collect();
        for some in wanted.chunks(BATCH) {
            let entries: Vec<_> = some.iter().copied().enumerate().map(entry).collect();
            let call = self.client.send_message_batch().queue_url(&self.url);
            let answer = call.set_entries(Some(entries)).send().await;
            let answer =
                answer.map_err(|error| BusError::Down { reason: crate::explained(&error) })?;
            if let Some(failed) = answer.failed.first() {
                return Err(BusError::Partial {
                    sent: wanted.len(),
                    failed: answer.failed.len(),
                    reason: failed.message().unwrap_or(failed.code()).to_owned(),
                });
            }
        }
        Ok(())
    }
}
