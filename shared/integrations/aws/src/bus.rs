//! Events on EventBridge: ten to a call, what was not taken again, and what is refused for its
//! content told apart from it.

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures_util::future::join_all;
use watchbill_core::ports::{Bus, BusError};
use watchbill_domain::{Event, EventId, TenantId};
use watchbill_wire::{BusEvent, tenant_resource};

/// EventBridge takes so many events in one call.
const BATCH: usize = 10;
/// And so many bytes; a little less, because it counts more than we write.
const BATCH_BYTES: usize = 240 * 1024;
/// Calls under way at once.
const AT_ONCE: usize = 8;
const TRIES: u32 = 4;
/// How EventBridge says that an entry, or a call by its entries, is wrong by what it holds. Anything
/// else, such as a throttle or a missing right, says nothing of the event.
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

    /// Sends up to ten. Of those that are refused together the ones at fault are found by halves.
    async fn put(&self, batch: Vec<Outgoing>) -> Sent {
        let mut sent = Sent::default();
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
            // Answered in the order asked; the taken ones have an id.
            let mut answers = answer.entries().iter();
            let mut again = Vec::new();
            for of in batch {
                match answers.next() {
                    Some(entry) if entry.event_id().is_some() => {}
                    Some(entry) => {
                        let said = entry.error_message().or(entry.error_code());
                        sent.reason = said.unwrap_or_default().to_owned();
                        match entry.error_code().is_some_and(is_refusal) {
                            true => sent.refused.push(of.id),
                            false => again.push(of),
                        }
                    }
                    None => again.push(of),
                }
            }
            match again.len() {
                0 => {}
                _ if tries < TRIES => open.push((again, tries + 1)),
                failed => sent.failed += failed,
            }
        }
        sent
    }
}

/// An entry and the event that it is of.
struct Outgoing {
    id: EventId,
    entry: PutEventsRequestEntry,
}

/// What became of a batch.
#[derive(Default)]
struct Sent {
    /// So many may not have been taken.
    failed: usize,
    /// A call was not answered, so the bus may be out of reach.
    down: bool,
    /// These are refused for what they hold.
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
        let outgoing = events.iter().map(|event| Outgoing {
            id: event.event_id.clone(),
            entry: entry(&self.name, tenant, event),
        });
        let mut batches = batches(outgoing).into_iter();
        let mut all = Sent::default();
        loop {
            let some: Vec<_> = batches.by_ref().take(AT_ONCE).collect();
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
        let Sent { failed, down, refused, reason } = all;
        match (failed, refused.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err(BusError::Refused { events: refused, reason }),
            // That says nothing of the events.
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

fn batches(outgoing: impl Iterator<Item = Outgoing>) -> Vec<Vec<Outgoing>> {
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

    fn of_size(bytes: usize) -> Outgoing {
        let entry = PutEventsRequestEntry::builder().detail("x".repeat(bytes)).build();
        Outgoing { id: EventId::parse("e").unwrap(), entry }
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
