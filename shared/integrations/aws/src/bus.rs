//! The event bus on EventBridge: ten events per call, with retries; events refused for their
//! content are reported separately.

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures_util::future::join_all;
use watchbill_core::ports::{Bus, BusError};
use watchbill_domain::{Event, EventId, TenantId};
use watchbill_wire::{BusEvent, tenant_resource};

/// EventBridge's limit of events per call.
const BATCH: usize = 10;
/// Bytes per call: a little below the limit, because EventBridge counts more than we write.
const BATCH_BYTES: usize = 240 * 1024;
const MAX_CONCURRENT_CALLS: usize = 8;
const MAX_ATTEMPTS: u32 = 4;
/// Error codes that refuse an entry, or a call, for its content. Other errors, such as a
/// throttle or a missing permission, say nothing about the event.
const REFUSALS: &[&str] =
    &["InvalidArgument", "MalformedDetail", "ValidationException", "SerializationException"];

pub struct EventBridgeBus {
    client: Client,
    name: String,
}

impl EventBridgeBus {
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// Sends up to ten entries. If the whole call is refused, bisection finds those at fault.
    async fn put(&self, batch: Vec<PendingEntry>) -> SendResult {
        let mut sent = SendResult::default();
        let mut open = vec![(batch, 1)];
        while let Some((mut batch, tries)) = open.pop() {
            let entries = batch.iter().map(|of| of.entry.clone()).collect();
            let answer = match self.client.put_events().set_entries(Some(entries)).send().await {
                Ok(answer) => answer,
                Err(error) if refuses(&error) => {
                    sent.reason = crate::explained(&error);
                    if batch.len() > 1 {
                        let second = batch.split_off(batch.len() / 2);
                        open.extend([(second, tries), (batch, tries)]);
                    } else {
                        sent.refused.extend(batch.into_iter().map(|of| of.id));
                    }
                    continue;
                }
                Err(error) => {
                    sent.reason = crate::explained(&error);
                    sent.down = true;
                    sent.failed +=
                        batch.len() + open.iter().map(|(more, _)| more.len()).sum::<usize>();
                    return sent;
                }
            };
            // Results are in request order; accepted entries have an id.
            let mut answers = answer.entries().iter();
            let mut retry = Vec::new();
            for of in batch {
                match answers.next() {
                    Some(entry) if entry.event_id().is_some() => {}
                    Some(entry) => {
                        let message = entry.error_message().or(entry.error_code());
                        sent.reason = message.unwrap_or_default().to_owned();
                        match entry.error_code().is_some_and(is_refusal) {
                            true => sent.refused.push(of.id),
                            false => retry.push(of),
                        }
                    }
                    None => retry.push(of),
                }
            }
            match retry.len() {
                0 => {}
                _ if tries < MAX_ATTEMPTS => open.push((retry, tries + 1)),
                failed => sent.failed += failed,
            }
        }
        sent
    }
}

struct PendingEntry {
    id: EventId,
    entry: PutEventsRequestEntry,
}

#[derive(Default)]
struct SendResult {
    /// Number of events that may not have been accepted.
    failed: usize,
    /// A call got no answer, so the bus may be unreachable.
    down: bool,
    /// Refused for their content.
    refused: Vec<EventId>,
    reason: String,
}

fn refuses<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code).is_some_and(is_refusal)
}

fn is_refusal(code: &str) -> bool {
    REFUSALS.contains(&code)
}

#[async_trait]
impl Bus for EventBridgeBus {
    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        let outgoing = events.iter().map(|event| PendingEntry {
            id: event.event_id.clone(),
            entry: entry(&self.name, tenant, event),
        });
        let mut batches = batches(outgoing).into_iter();
        let mut all = SendResult::default();
        loop {
            let some: Vec<_> = batches.by_ref().take(MAX_CONCURRENT_CALLS).collect();
            if some.is_empty() {
                break;
            }
            for sent in join_all(some.into_iter().map(|batch| self.put(batch))).await {
                all.failed += sent.failed;
                all.down |= sent.down;
                all.refused.extend(sent.refused);
                if !sent.reason.is_empty() {
                    all.reason = sent.reason;
                }
            }
        }
        let SendResult { failed, down, refused, reason } = all;
        match (failed, refused.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(BusError::Refused { events: refused, reason }),
            // An unreachable bus says nothing about the events.
            _ if down => Err(BusError::Down { reason }),
            _ => Err(BusError::Partial { sent: events.len(), failed, reason }),
        }
    }
}

fn entry(bus: &str, tenant: &TenantId, event: &Event) -> PutEventsRequestEntry {
    let at = DateTime::from_millis(event.timestamp.millis());
    let form = BusEvent::from(event.clone());
    let detail = form.detail_text();
    PutEventsRequestEntry::builder()
        .event_bus_name(bus)
        .source(form.source)
        .detail_type(form.detail_type)
        .detail(detail)
        .time(at)
        .resources(tenant_resource(tenant))
        .build()
}

fn batches(outgoing: impl Iterator<Item = PendingEntry>) -> Vec<Vec<PendingEntry>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for of in outgoing {
        let size = of.entry.detail().map_or(0, str::len) + 256;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH && bytes + size <= BATCH_BYTES => {
                bytes += size;
                batch.push(of);
            }
            _ => {
                bytes = size;
                batches.push(vec![of]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(bytes: usize) -> PendingEntry {
        let entry = PutEventsRequestEntry::builder().detail("x".repeat(bytes)).build();
        PendingEntry { id: EventId::parse("e").unwrap(), entry }
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
