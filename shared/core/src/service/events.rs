use std::time::Duration;

use serde_json::Value;

use super::core::Core;
use super::pages::newest_first;
use super::{EventFilter, EventPage, NewEvent, ServiceError};
use crate::domain::{
    Event, EventId, EventPriority, EventType, PublishedEvent, TaskId, TaskLimits, TenantId,
    Timestamp,
};
use crate::ledger::{Batch, LedgerReader};
use crate::ports::{Expect, Topic, Write};
use crate::redact;
use crate::repo::{decode, encode};

/// A published event's payload, bytes of JSON.
const EVENT_PAYLOAD: usize = 100 * 1024;
/// How long the item of a published event is kept; the ledger has it within seconds.
const KEEP_PUBLISHED: Duration = Duration::from_secs(7 * 86_400);
/// Ledger batches that one page looks at before it hands back a cursor.
const LOOK_AT: u64 = 256;

/// A follower's place in a tenant's ledger: batch, and how many events of it were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerPlace {
    seq: u64,
    skip: usize,
}

impl Core {
    /// Accepts an event: durable when this returns, recorded and sent out after.
    pub async fn publish_event(&self, new: NewEvent) -> Result<Event, ServiceError> {
        let event_type = EventType::parse(&new.event_type)?;
        if event_type.is_reserved() {
            let message = format!(
                "events under '{}.' are made by Watchbill alone; publish yours under another noun",
                event_type.group()
            );
            return Err(ServiceError::Forbidden { message });
        }
        let bytes = serde_json::to_vec(&new.payload).map_or(usize::MAX, |json| json.len());
        if bytes > EVENT_PAYLOAD {
            let what = "event payload";
            return Err(ServiceError::TooLarge { what, bytes, most: EVENT_PAYLOAD });
        }
        if new.hops > TaskLimits::HOPS {
            let message = format!("{} hops, {} are the most", new.hops, TaskLimits::HOPS);
            return Err(ServiceError::Conflict { message });
        }
        refuse_secrets(&new)?;
        let now = self.clock().now();
        let event = self.event(&new, event_type, now)?;
        let published =
            PublishedEvent { tenant: new.tenant, event, expires: now.plus(KEEP_PUBLISHED) };
        let item = encode(&published, None);
        match self.commit(vec![Write::Put { item, expect: Expect::Absent }]).await? {
            None => Ok(published.event),
            Some(conflict) => match conflict.item {
                // The same id again is the same event.
                Some(item) => Ok(decode::<PublishedEvent>(&item)?.value.event),
                None => Err(conflict.gone()),
            },
        }
    }

    fn event(
        &self,
        new: &NewEvent,
        event_type: EventType,
        now: Timestamp,
    ) -> Result<Event, ServiceError> {
        let priority = match &new.priority {
            None => EventPriority::Medium,
            Some(text) => EventPriority::parse(text)?,
        };
        let event_id = match &new.event_id {
            Some(id) => EventId::parse(id)?,
            None => {
                let random = self.entropy().next_u64().to_string();
                crate::domain::timed_uuid(now, &["published", new.tenant.as_str(), &random]).into()
            }
        };
        let trace_id = match &new.trace_id {
            Some(trace) => trace.clone(),
            None => self.entropy().uuid7(now).simple().to_string(),
        };
        let mut metadata = serde_json::Map::new();
        metadata.insert("published_by".into(), Value::from(redact::text(&new.published_by)));
        // It goes to whoever listens, and into the ledger for good.
        let mut payload = new.payload.clone();
        redact::object(&mut payload);
        Ok(Event {
            event_id,
            event_type,
            priority,
            source_agent: redact::text(&new.source_agent).into_owned(),
            trace_id,
            task_id: new.task_id.clone(),
            payload,
            timestamp: now,
            metadata,
            hops: new.hops,
        })
    }

    /// Newest first. The cursor is `<batch>.<place>`: what comes next is before it.
    pub async fn events(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<EventPage, ServiceError> {
        let ledger = LedgerReader::new(self.store().clone(), tenant.clone());
        let of = |batch: &Batch| {
            let events = events_of(batch).into_iter();
            events.map(|event| Some(event).filter(|event| fits(event, filter))).collect()
        };
        let (events, next_cursor) = newest_first(&ledger, "/events", limit, cursor, of).await?;
        Ok(EventPage { events, next_cursor })
    }

    /// What came after an event, oldest first; waits for the first if there is none yet.
    /// Without `after`: from now on.
    pub async fn events_after(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        after: Option<&EventId>,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Event>, ServiceError> {
        let mut place = self.ledger_place(tenant, after).await?;
        self.events_from(tenant, filter, &mut place, limit, wait).await
    }

    /// The same for a follower that keeps its place in the ledger, and moves it past what it
    /// is given.
    pub async fn events_from(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        place: &mut LedgerPlace,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Event>, ServiceError> {
        let ledger = LedgerReader::new(self.store().clone(), tenant.clone());
        let topic = Topic::Ledger(tenant.clone());
        let until = self.clock().monotonic() + wait;
        let mut mark = self.wake().mark(&topic);
        let mut events = Vec::new();
        loop {
            while let Some(batch) = ledger.batch(place.seq).await? {
                for event in events_of(&batch).into_iter().skip(place.skip) {
                    if events.len() == limit {
                        return Ok(events);
                    }
                    place.skip += 1;
                    events.extend(Some(event).filter(|event| fits(event, filter)));
                }
                *place = LedgerPlace { seq: place.seq + 1, skip: 0 };
            }
            let left = until.saturating_sub(self.clock().monotonic());
            if !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
            self.wake().wait(&topic, mark, left).await;
            mark = self.wake().mark(&topic);
        }
    }

    /// Where reading goes on after an event; without one, from now on.
    pub async fn ledger_place(
        &self,
        tenant: &TenantId,
        after: Option<&EventId>,
    ) -> Result<LedgerPlace, ServiceError> {
        let ledger = LedgerReader::new(self.store().clone(), tenant.clone());
        let Some(after) = after else {
            return Ok(LedgerPlace { seq: ledger.listed_head().await? + 1, skip: 0 });
        };
        // An event is recorded after it happened, so batches before its time can't hold it.
        // Clocks of two machines may differ by a few seconds.
        if let Some(at) = after.millis()
            && let Some(first) = ledger.first_since(at.minus(Duration::from_secs(5))).await?
            && let Some(place) = find_from(&ledger, first, after).await?
        {
            return Ok(place);
        }
        // An id that a peer gave says nothing of when it was recorded, even where it reads as
        // if it did.
        let recent = ledger.listed_head().await?.saturating_sub(LOOK_AT).max(1);
        let place = find_from(&ledger, recent, after).await?;
        place.ok_or_else(|| ServiceError::NotFound { what: "event", id: after.to_string() })
    }
}

/// The batch and the place after an event, looked for from a batch on.
async fn find_from(
    ledger: &LedgerReader,
    mut seq: u64,
    wanted: &EventId,
) -> Result<Option<LedgerPlace>, ServiceError> {
    while let Some(batch) = ledger.batch(seq).await? {
        let place = events_of(&batch).iter().position(|event| event.event_id == *wanted);
        if let Some(place) = place {
            return Ok(Some(LedgerPlace { seq, skip: place + 1 }));
        }
        seq += 1;
    }
    Ok(None)
}

/// An id can't be cleaned, as it would then be another's: one that looks like a secret is
/// not taken.
fn refuse_secrets(new: &NewEvent) -> Result<(), ServiceError> {
    let ids = [
        ("event_type", Some(new.event_type.as_str())),
        ("event_id", new.event_id.as_deref()),
        ("task_id", new.task_id.as_ref().map(TaskId::as_str)),
        ("trace_id", new.trace_id.as_deref()),
    ];
    match ids.into_iter().find(|(_, id)| id.is_some_and(redact::holds_secret)) {
        Some((field, _)) => Err(ServiceError::secret(field)),
        None => Ok(()),
    }
}

fn events_of(batch: &Batch) -> Vec<Event> {
    batch.entries.iter().flat_map(crate::ledger::Entry::events).collect()
}

fn fits(event: &Event, filter: &EventFilter) -> bool {
    let type_fits = filter.event_type.as_deref().is_none_or(|wanted| {
        let found = event.event_type.as_str();
        found == wanted || (wanted.ends_with('.') && found.starts_with(wanted))
    });
    type_fits && filter.task_id.as_ref().is_none_or(|id| Some(id) == event.task_id.as_ref())
}
