//! The notify lane on SQS, as a bus for those events that people are notified of.

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use watchbill_core::ports::{Bus, BusError};
use watchbill_domain::{Event, EventType, TenantId};
use watchbill_wire::NoticeForm;

use crate::queue::{self, BATCH, BATCH_BYTES};

pub struct SqsNotices {
    client: Client,
    url: String,
    types: Vec<String>,
}

impl SqsNotices {
    /// `types`: event types to notify of.
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
        let wanted: Vec<&Event> =
            events.iter().filter(|event| self.wants(tenant, &event.event_type)).collect();
        let (mut refused, mut reason) = (Vec::new(), String::new());
        for batch in batches(tenant, &wanted) {
            let sent = queue::send(&self.client, &self.url, batch).await;
            if sent.failed > 0 {
                let reason = sent.reason;
                return Err(match sent.down {
                    true => BusError::Down { reason },
                    false => BusError::Partial { sent: wanted.len(), failed: sent.failed, reason },
                });
            }
            if !sent.refused.is_empty() {
                reason = sent.reason;
            }
            refused.extend(sent.refused);
        }
        if refused.is_empty() {
            return Ok(());
        }
        let events = refused.iter().filter_map(|entry| {
            let place: usize = entry.id().parse().ok()?;
            Some(wanted.get(place)?.event_id.clone())
        });
        Err(BusError::Refused { events: events.collect(), reason })
    }
}

/// Batches that fit one call. An entry's id is its event's index.
fn batches(tenant: &TenantId, events: &[&Event]) -> Vec<Vec<SendMessageBatchRequestEntry>> {
    let mut batches: Vec<Vec<SendMessageBatchRequestEntry>> = Vec::new();
    let mut bytes = 0;
    for (place, event) in events.iter().enumerate() {
        let body = NoticeForm::write(tenant, event);
        let size = body.len();
        let entry = SendMessageBatchRequestEntry::builder()
            .id(place.to_string())
            .message_body(body)
            .message_group_id(tenant.as_str())
            .build()
            .expect("id and body are set");
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH && bytes + size <= BATCH_BYTES => {
                bytes += size;
                batch.push(entry);
            }
            _ => {
                bytes = size;
                batches.push(vec![entry]);
            }
        }
    }
    batches
}
