//! Events on EventBridge: ten to a call, what was not taken once more.

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures_util::future::join_all;
use watchbill_core::domain::{Event, TenantId};
use watchbill_core::ports::{Bus, BusError};
use watchbill_wire::{BusEvent, tenant_resource};

/// EventBridge takes so many events in one call.
const BATCH: usize = 10;
/// And so many bytes; a little less, because it counts more than we write.
const BATCH_BYTES: usize = 240 * 1024;
/// Calls under way at once.
const AT_ONCE: usize = 8;
const TRIES: u32 = 4;

pub struct EventBridgeBus {
    client: Client,
    name: String,
}

impl EventBridgeBus {
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// The number that was not taken after all tries, and why.
    async fn put(&self, mut batch: Vec<PutEventsRequestEntry>) -> (usize, String) {
        let mut reason = String::new();
        for _ in 0..TRIES {
            let put = self.client.put_events().set_entries(Some(batch.clone())).send().await;
            let answer = match put {
                Err(error) => return (batch.len(), crate::explained(&error)),
                Ok(answer) => answer,
            };
            // Answered in the order asked; the taken ones have an id.
            let mut answers = answer.entries().iter();
            batch.retain(|_| match answers.next() {
                Some(entry) if entry.event_id().is_some() => false,
                Some(entry) => {
                    reason = entry.error_message().or(entry.error_code()).unwrap_or("").to_owned();
                    true
                }
                None => true,
            });
            if batch.is_empty() {
                break;
            }
        }
        (batch.len(), reason)
    }
}

#[async_trait]
impl Bus for EventBridgeBus {
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let entries = events.iter().map(|event| entry(&self.name, tenant, event));
        let mut batches = batches(entries).into_iter();
        let (mut failed, mut reason) = (0, String::new());
        loop {
            let some: Vec<_> = batches.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            for (left, why) in join_all(some.into_iter().map(|batch| self.put(batch))).await {
                failed += left;
                if left > 0 {
                    reason = why;
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(BusError::Partial { sent: events.len(), failed, reason }),
        }
    }
}

fn entry(bus: &str, tenant: &TenantId, event: &Event) -> PutEventsRequestEntry {
    let at = DateTime::from_millis(event.timestamp.millis());
    let form = BusEvent::from(event.clone());
    let detail = serde_json::to_string(&form.detail).expect("an event can be written");
    PutEventsRequestEntry::builder()
        .event_bus_name(bus)
        .source(form.source)
        .detail_type(form.detail_type)
        .detail(detail)
        .time(at)
        .resources(tenant_resource(tenant))
        .build()
}

fn batches(
    entries: impl Iterator<Item = PutEventsRequestEntry>,
) -> Vec<Vec<PutEventsRequestEntry>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry.detail().map_or(0, str::len) + 256;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(bytes: usize) -> PutEventsRequestEntry {
        PutEventsRequestEntry::builder().detail("x".repeat(bytes)).build()
    }

    #[test]
    fn a_call_holds_ten_and_not_too_many_bytes() {
        let sizes = |entries: Vec<_>| -> Vec<usize> {
            batches(entries.into_iter()).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes((0..23).map(|_| of_size(100)).collect()), [10, 10, 3]);
        assert_eq!(sizes((0..5).map(|_| of_size(100_000)).collect()), [2, 2, 1]);
        assert_eq!(sizes(vec![of_size(300_000), of_size(1)]), [1, 1]);
    }
}
