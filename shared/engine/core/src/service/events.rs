//! Events: published by callers, listed, and followed from a position in the ledger.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use watchbill_domain::{
    Event, EventId, EventPriority, EventType, PublishedEvent, TaskId, TaskLimits, TenantId,
    Timestamp,
};
use watchbill_redact as redact;

use super::cursor::Cursors;
use super::cursor::cursors::{EVENTS, FOLLOWED};
use super::pages::{LedgerList, newest_first};
use super::walk::StoreWalk;
use super::weight::{self, PAGE_BYTES, PageRoom};
use super::{Context, EventFilter, EventPage, NewEvent, ServiceError};
use crate::ledger::{Batch, Entry, LedgerReader};
use crate::ports::{Precondition, Topic, Write};
use crate::repo::{decode, encode};

/// Maximum payload of a published event, bytes of JSON.
const EVENT_PAYLOAD: usize = 100 * 1024;
/// How long the item of a published event is kept; the ledger has it within seconds.
const KEEP_PUBLISHED: Duration = Duration::from_secs(7 * 86_400);
/// An id without a time is searched for in this many of the newest batches.
const RECENT: u64 = 256;
/// An event is recorded after it happened; clocks of two machines may differ by this much.
const SKEW: Duration = Duration::from_secs(5);

/// A follower's position in a tenant's ledger: the batch and the number of its events that were
/// read, or how far the search for the event it begins after has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPlace {
    seq: u64,
    skip: usize,
    search: Option<Search>,
}

/// The search for an event: first from its own time on, then among the newest batches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Search {
    wanted: EventId,
    among_newest: bool,
}

/// The maximum size of a page for a follower.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    pub entries: usize,
    /// Approximate bytes of JSON; a single entry that is larger is returned all the same.
    pub bytes: usize,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { entries: 100, bytes: PAGE_BYTES }
    }
}

/// A page for a follower.
#[derive(Clone, Debug)]
pub struct EventsAfter {
    pub events: Vec<Event>,
    /// More can be read at once: the call ended before the ledger did.
    pub more: bool,
    /// Approximate size of the events in JSON, bytes.
    pub bytes: usize,
    /// The number of unreadable ledger batches, whose events are left out.
    pub unreadable: usize,
}

/// Publishes, lists and follows events. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    context: Context,
}

impl Events {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Accepts an event: durable when this returns, recorded and sent afterwards.
    pub async fn publish(&self, new: NewEvent) -> Result<Event, ServiceError> {
        let event_type = EventType::parse(&new.event_type)?;
        if event_type.is_reserved() {
            let message = format!(
                "only Watchbill publishes events under '{}.'; publish yours under another noun",
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
            let message = format!("{} hops; the maximum is {}", new.hops, TaskLimits::HOPS);
            return Err(ServiceError::Conflict { message });
        }
        refuse_secrets(&new)?;
        let now = self.context.clock().now();
        let event = self.event(&new, event_type, now)?;
        let published =
            PublishedEvent { tenant: new.tenant, event, expires: now.plus(KEEP_PUBLISHED) };
        let item = encode(&published, None);
        match self.context.transact(vec![Write::Put { item, expect: Precondition::Absent }]).await?
        {
            Ok(()) => Ok(published.event),
            Err(conflict) => match conflict.item {
                // The same id again is the same event.
                Some(item) => Ok(decode::<PublishedEvent>(&item)?.value.event),
                None => Err(conflict.into_error()),
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
                let random = self.context.entropy().next_u64().to_string();
                watchbill_domain::timed_uuid(now, &["published", new.tenant.as_str(), &random])
                    .into()
            }
        };
        let trace_id = match &new.trace_id {
            Some(trace) => trace.clone(),
            None => self.context.entropy().uuid7(now).simple().to_string(),
        };
        let mut metadata = serde_json::Map::new();
        metadata.insert("published_by".into(), Value::from(redact::text(&new.published_by)));
        // Consumers receive it, and the ledger keeps it for good.
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

    /// Newest first.
    pub async fn list(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<EventPage, ServiceError> {
        let cursors = Cursors::new(EVENTS, tenant, "");
        let page = newest_first(&self.context, tenant, filter, &cursors, (limit, cursor)).await?;
        let (events, unreadable) = (page.entries, page.unreadable);
        Ok(EventPage { events, next_cursor: page.next, unreadable, bytes: page.bytes })
    }

    /// The events after an event, oldest first; waits for the first one if there is none yet.
    /// Without `after`: from now on. The cursor continues where a page ended and is present
    /// only where more can be read at once.
    pub async fn after(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        (after, cursor): (Option<&EventId>, Option<String>),
        limit: usize,
        wait: Duration,
    ) -> Result<EventPage, ServiceError> {
        let mut place = self.open_place(tenant, after, cursor).await?;
        let page = PageSize { entries: limit, ..PageSize::default() };
        let found = self.follow(tenant, filter, &mut place, page, wait).await?;
        Ok(found.into_page(tenant, &place))
    }

    /// The position of a cursor; without one, the position after an event, or the end of the
    /// ledger.
    pub async fn open_place(
        &self,
        tenant: &TenantId,
        after: Option<&EventId>,
        cursor: Option<String>,
    ) -> Result<LedgerPlace, ServiceError> {
        let cursors = Cursors::new(FOLLOWED, tenant, "");
        match cursor {
            Some(cursor) => LedgerPlace::parse(cursors.open(&cursor)?, after)
                .ok_or_else(|| cursors.refuse(&cursor, "it names no position")),
            None => self.place_after(tenant, after).await,
        }
    }

    /// The same for a follower that keeps its position in the ledger; advances it past what is
    /// returned.
    pub async fn follow(
        &self,
        tenant: &TenantId,
        filter: &EventFilter,
        place: &mut LedgerPlace,
        page: PageSize,
        wait: Duration,
    ) -> Result<EventsAfter, ServiceError> {
        let ledger = self.context.ledger(tenant);
        let topic = Topic::Ledger(tenant.clone());
        let until = self.context.clock().monotonic() + wait;
        let mut mark = self.context.wake().mark(&topic);
        loop {
            let mut walk = StoreWalk::new(&**self.context.clock());
            if !find(&self.context, &ledger, place, &mut walk).await? {
                return Ok(EventsAfter { events: Vec::new(), more: true, bytes: 0, unreadable: 0 });
            }
            let followed = read_on(&self.context, &ledger, filter, place, page, &mut walk).await?;
            let left = until.saturating_sub(self.context.clock().monotonic());
            if !followed.events.is_empty() || followed.more || left.is_zero() {
                return Ok(followed);
            }
            self.context.wake().wait(&topic, mark, left).await;
            mark = self.context.wake().mark(&topic);
        }
    }

    /// The position after an event; without one, the end of the ledger. The reader searches for
    /// the event itself.
    pub async fn place_after(
        &self,
        tenant: &TenantId,
        after: Option<&EventId>,
    ) -> Result<LedgerPlace, ServiceError> {
        let ledger = self.context.ledger(tenant);
        let Some(after) = after else {
            let seq = ledger.listed_head().await? + 1;
            return Ok(LedgerPlace { seq, skip: 0, search: None });
        };
        let search = |among_newest| Some(Search { wanted: after.clone(), among_newest });
        // Batches before its time cannot contain it.
        if let Some(at) = after.millis()
            && let Some(seq) = ledger.first_since(at.minus(SKEW)).await?
        {
            return Ok(LedgerPlace { seq, skip: 0, search: search(false) });
        }
        let seq = newest(&ledger).await?;
        Ok(LedgerPlace { seq, skip: 0, search: search(true) })
    }

    /// Searches for the event that a position begins after, within the limits of one call.
    /// Returns `true` once the position is found.
    pub async fn find_place(
        &self,
        tenant: &TenantId,
        place: &mut LedgerPlace,
    ) -> Result<bool, ServiceError> {
        find(
            &self.context,
            &self.context.ledger(tenant),
            place,
            &mut StoreWalk::new(&**self.context.clock()),
        )
        .await
    }
}

/// The first of the newest batches.
async fn newest(ledger: &LedgerReader) -> Result<u64, ServiceError> {
    Ok(ledger.listed_head().await?.saturating_sub(RECENT).max(1))
}

/// Continues a position's search. Returns `true` once the search is finished.
async fn find(
    context: &Context,
    ledger: &LedgerReader,
    place: &mut LedgerPlace,
    walk: &mut StoreWalk<'_>,
) -> Result<bool, ServiceError> {
    while let Some(search) = &place.search {
        if walk.is_over() {
            return Ok(false);
        }
        let read = context.readable(ledger.weighed(place.seq).await)?;
        if read.is_err() {
            walk.read(0);
            place.seq += 1;
        } else if let Ok(Some((batch, bytes))) = read {
            walk.read(bytes);
            match place_in(&batch, &search.wanted) {
                Some(at) => *place = LedgerPlace { skip: at + 1, search: None, ..*place },
                None => place.seq += 1,
            }
        } else if search.among_newest {
            let id = search.wanted.to_string();
            return Err(ServiceError::NotFound { what: "event", id });
        } else {
            // An id from the legacy queue does not tell when it was recorded, even if it seems to.
            let search = Search { among_newest: true, ..search.clone() };
            *place = LedgerPlace { seq: newest(ledger).await?, skip: 0, search: Some(search) };
        }
    }
    Ok(true)
}

/// The position of an event among those of a batch.
fn place_in(batch: &Batch, wanted: &EventId) -> Option<usize> {
    let mut before = 0;
    for entry in &batch.entries {
        if let Some(place) = entry.place_of(wanted) {
            return Some(before + place);
        }
        before += entry.event_count();
    }
    None
}

/// Reads from a position to the ledger's end, or up to the limits of one page and one walk.
async fn read_on(
    context: &Context,
    ledger: &LedgerReader,
    filter: &EventFilter,
    place: &mut LedgerPlace,
    page: PageSize,
    walk: &mut StoreWalk<'_>,
) -> Result<EventsAfter, ServiceError> {
    let (mut events, mut room, mut unreadable) = (Vec::new(), PageRoom::of(page.bytes), 0);
    loop {
        if walk.is_over() {
            return Ok(EventsAfter { events, more: true, bytes: room.taken(), unreadable });
        }
        let batch = match context.readable(ledger.weighed(place.seq).await)? {
            Ok(batch) => batch,
            Err(_) => {
                walk.read(0);
                unreadable += 1;
                *place = LedgerPlace { seq: place.seq + 1, skip: 0, search: None };
                continue;
            }
        };
        let Some((batch, bytes)) = batch else {
            return Ok(EventsAfter { events, more: false, bytes: room.taken(), unreadable });
        };
        walk.read(bytes);
        let mut at = 0;
        for entry in &batch.entries {
            let count = entry.event_count();
            if at + count <= place.skip {
                at += count;
                continue;
            }
            for event in filter.of(entry) {
                at += 1;
                if at <= place.skip {
                    continue;
                }
                if let Some(event) = event {
                    if !room.takes(weight::event(&event)) {
                        let bytes = room.taken();
                        return Ok(EventsAfter { events, more: true, bytes, unreadable });
                    }
                    events.push(event);
                }
                place.skip = at;
                if events.len() == page.entries {
                    return Ok(EventsAfter { events, more: true, bytes: room.taken(), unreadable });
                }
            }
        }
        *place = LedgerPlace { seq: place.seq + 1, skip: 0, search: None };
    }
}

impl EventsAfter {
    /// A page for a caller, with a cursor of the position that was reached.
    pub fn into_page(self, tenant: &TenantId, place: &LedgerPlace) -> EventPage {
        let cursors = Cursors::new(FOLLOWED, tenant, "");
        let next_cursor = self.more.then(|| cursors.seal(&place.to_string()));
        let EventsAfter { events, bytes, unreadable, .. } = self;
        EventPage { events, next_cursor, unreadable, bytes }
    }
}

impl LedgerPlace {
    /// Parses its text form. A search also needs the event that is searched for.
    fn parse(text: &str, after: Option<&EventId>) -> Option<Self> {
        let among_newest = match text.as_bytes().first()? {
            b's' => false,
            b'n' => true,
            _ => {
                let (seq, skip) = text.split_once('.')?;
                let (seq, skip) = (seq.parse().ok()?, skip.parse().ok()?);
                return Some(Self { seq, skip, search: None });
            }
        };
        let search = Search { wanted: after?.clone(), among_newest };
        Some(Self { seq: text[1..].parse().ok()?, skip: 0, search: Some(search) })
    }
}

impl fmt::Display for LedgerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, skip, search } = self;
        match search {
            None => write!(f, "{seq}.{skip}"),
            Some(Search { among_newest: false, .. }) => write!(f, "s{seq}"),
            Some(Search { among_newest: true, .. }) => write!(f, "n{seq}"),
        }
    }
}

impl LedgerList for EventFilter {
    type Item = Event;

    fn count(&self, entry: &Entry) -> usize {
        entry.event_count()
    }

    fn of(&self, entry: &Entry) -> Vec<Option<Event>> {
        entry.events_if(|event_type, task| self.fits(event_type, task))
    }

    fn weight(event: &Event) -> usize {
        weight::event(event)
    }
}

impl EventFilter {
    /// Whether it matches events of this type and task.
    fn fits(&self, event_type: &EventType, task: Option<&TaskId>) -> bool {
        let of_type = self.event_type.as_deref().is_none_or(|wanted| {
            let found = event_type.as_str();
            found == wanted || (wanted.ends_with('.') && found.starts_with(wanted))
        });
        of_type && self.task_id.as_ref().is_none_or(|id| Some(id) == task)
    }
}

/// An id cannot be redacted, as it would become another id: one that looks like a secret is
/// rejected.
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
