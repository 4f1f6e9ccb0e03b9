use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use watchbill_core::domain::{Event, EventId, Role, TenantId};
use watchbill_core::ports::Topic;
use watchbill_core::redact;
use watchbill_core::service::{EventFilter, ServiceError};
use watchbill_wire::{EventList, EventPublished, EventQuery, EventView, Field, Kind, PublishEvent};

use crate::Fault;
use crate::req::Req;
use crate::route::{Access, Answer, Body, Doc, Route, Success, Verb, json};
use crate::state::{ApiState, StreamPlace};

/// Nothing for so long, and a comment is sent, so that nobody between takes the connection
/// for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After so long a stream ends; a client that calls again proves its key anew.
const STREAM_LIFE: Duration = Duration::from_secs(600);
/// Events read at once.
const PAGE: usize = 100;

const LAST_EVENT_ID: Field = Field::maybe(
    "Last-Event-ID",
    Kind::Text { most: 128, lines: false },
    "Where a stream goes on: the same as `after`.",
);

pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Post,
        path: "/events/publish",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(publish(req)),
        doc: Doc {
            text: "An event changes no task by itself; a reaction may make one of it.",
            body: Some(Body {
                fields: PublishEvent::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"event_type":"alert.triggered","source_agent":"prometheus","payload":{"alert_type":"high_cpu","severity":"critical"}}"#,
            }),
            errors: &[400, 409, 413, 415, 503],
            ..Doc::new(
                "Events",
                "publish_event",
                "Publish an event",
                Success::Json(|g| g.subschema_for::<EventPublished>()),
            )
        },
    },
    Route {
        verb: Verb::Get,
        path: "/events",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Newest first; with `after`, what came after that event, oldest first, and with \
                   `wait` held back until there is something. With `Accept: text/event-stream` \
                   the answer is a stream of server-sent events where the host can hold one.",
            query: EventQuery::FIELDS,
            headers: &[LAST_EVENT_ID],
            errors: &[400, 404, 503],
            ..Doc::new(
                "Events",
                "list_events",
                "List or follow events",
                Success::JsonOrStream(|g| g.subschema_for::<EventList>()),
            )
        },
    },
];

async fn publish(mut req: Req) -> Answer {
    let body = req.body().await?;
    let (event, origin) = PublishEvent::read_with_origin(&body)?;
    let new = event.into_new_event(req.caller(), req.trace_id(), origin);
    let event = req.core().publish_event(new).await?;
    json(&EventPublished {
        success: true,
        message: format!("Event {} published", event.event_type),
        event_id: event.event_id.to_string(),
        event_type: event.event_type,
    })
}

async fn list(req: Req) -> Answer {
    let query = EventQuery::read(req.query(EventQuery::FIELDS))?;
    let last = last_event_id(&req)?;
    let accepts = req.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let wants_stream = accepts.is_some_and(|kinds| kinds.contains("text/event-stream"));
    if wants_stream && req.state.shared().streams {
        return stream(req, query, last).await;
    }
    let (core, tenant) = (req.core(), &req.caller().tenant);
    let (events, next_cursor) = match &query.after {
        Some(after) => {
            let (filter, limit) = (&query.filter, query.limit);
            (core.events_after(tenant, filter, Some(after), limit, query.wait).await?, None)
        }
        None => {
            let page = core.events(tenant, &query.filter, query.limit, query.cursor).await?;
            (page.events, page.next_cursor)
        }
    };
    let events: Vec<_> = events.into_iter().map(EventView::from).collect();
    json(&EventList { success: true, count: events.len(), events, next_cursor })
}

fn last_event_id(req: &Req) -> Result<Option<EventId>, Fault> {
    let Some(value) = req.headers().get("last-event-id") else { return Ok(None) };
    let id = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| EventId::parse(text).ok());
    let wrong = || Fault::field("Last-Event-ID", "'Last-Event-ID' is no event's id");
    id.map(Some).ok_or_else(wrong)
}

/// A stream's place in the ledger.
struct Follower {
    state: ApiState,
    tenant: TenantId,
    filter: EventFilter,
    /// The last event seen, whether it fitted or not; none while the ledger is empty.
    after: Option<EventId>,
    ready: VecDeque<Bytes>,
    ends: Duration,
    _place: StreamPlace,
}

async fn stream(req: Req, query: EventQuery, last: Option<EventId>) -> Answer {
    let Some(place) = req.state.stream_place() else {
        return Err(Fault::unavailable("too many event streams are open", KEEP_ALIVE));
    };
    let (core, tenant) = (req.core(), req.caller().tenant.clone());
    let after = match last.or(query.after) {
        Some(after) => {
            // Said now, while the answer can still be a 404.
            let none = EventFilter::default();
            core.events_after(&tenant, &none, Some(&after), 1, Duration::ZERO).await?;
            Some(after)
        }
        None => newest(&req.state, &tenant).await?.map(|event| event.event_id),
    };
    let follower = Follower {
        ends: core.clock().monotonic() + STREAM_LIFE,
        state: req.state.clone(),
        tenant,
        filter: query.filter,
        after,
        // A first comment sends the headers on their way.
        ready: VecDeque::from([Bytes::from_static(b": following\n\n")]),
        _place: place,
    };
    let body = axum::body::Body::from_stream(stream::unfold(follower, |mut follower| async {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(chunk), follower))
    }));
    let mut response = axum::response::Response::new(body);
    for (name, value) in
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn newest(state: &ApiState, tenant: &TenantId) -> Result<Option<Event>, ServiceError> {
    let page = state.core().events(tenant, &EventFilter::default(), 1, None).await?;
    Ok(page.events.into_iter().next())
}

impl Follower {
    /// The next piece of the stream, or its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.ready.pop_front() {
            return Some(chunk);
        }
        if self.state.core().clock().monotonic() >= self.ends {
            return None;
        }
        match self.read().await {
            Ok(events) => {
                for event in events {
                    self.after = Some(event.event_id.clone());
                    if fits(&event, &self.filter) {
                        self.ready.push_back(frame(event));
                    }
                }
            }
            Err(ServiceError::Busy { after }) => self.state.core().clock().sleep(after).await,
            // The client comes back with Last-Event-ID and is told then.
            Err(_) => return None,
        }
        Some(self.ready.pop_front().unwrap_or(Bytes::from_static(b": keep-alive\n\n")))
    }

    async fn read(&self) -> Result<Vec<Event>, ServiceError> {
        let (core, all) = (self.state.core(), EventFilter::default());
        if let Some(after) = &self.after {
            return core.events_after(&self.tenant, &all, Some(after), PAGE, KEEP_ALIVE).await;
        }
        // An empty ledger: what comes first in it is new.
        let topic = Topic::Ledger(self.tenant.clone());
        let mark = core.wake().mark(&topic);
        let look = || core.events(&self.tenant, &all, PAGE, None);
        let mut page = look().await?;
        if page.events.is_empty() {
            core.wake().wait(&topic, mark, KEEP_ALIVE).await;
            page = look().await?;
        }
        page.events.reverse();
        Ok(page.events)
    }
}

fn fits(event: &Event, filter: &EventFilter) -> bool {
    let type_fits = filter.event_type.as_deref().is_none_or(|wanted| {
        let found = event.event_type.as_str();
        found == wanted || wanted.ends_with('.') && found.starts_with(wanted)
    });
    type_fits && filter.task_id.as_ref().is_none_or(|id| event.task_id.as_ref() == Some(id))
}

fn frame(event: Event) -> Bytes {
    // An id from a peer may hold anything but control characters, so one line holds it.
    let (id, event_type) = (event.event_id.clone(), event.event_type.clone());
    let data = serde_json::to_string(&EventView::from(event)).expect("an event can be written");
    let data = redact::json(&data);
    let id = redact::text(id.as_str());
    format!("id: {id}\nevent: {event_type}\ndata: {data}\n\n").into()
}
