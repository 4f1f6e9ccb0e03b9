//! Routes that publish, list and stream events.

use http::Method;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use watchbill_core::offload::SMALL;
use watchbill_core::ports::Topic;
use watchbill_core::service::cursors::FOLLOWED;
use watchbill_core::service::{
    EventFilter, EventPage, EventsAfter, LedgerPlace, PageSize, ServiceError,
};
use watchbill_domain::{Event, EventId, Role, TenantId};
use watchbill_redact as redact;
use watchbill_wire::{
    EventList, EventPublished, EventQuery, EventView, Field, FieldType, PublishEvent,
};

use super::follow::Wait;
use crate::ApiError;
use crate::auth::{PROOF_AGE, Session};
use crate::req::Req;
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, json, json_of};
use crate::serve::no_place;
use crate::shares::Share;
use crate::state::ApiState;

/// After this much silence a comment is sent, so that no proxy closes the connection as dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this long; a client that reconnects is authenticated again.
const STREAM_LIFE: Duration = Duration::from_secs(600);
/// Events read at once. An unread stream holds this much.
const PAGE: PageSize = PageSize { entries: 100, bytes: 64 * 1024 };

const LAST_EVENT_ID: Field = Field::optional(
    "Last-Event-ID",
    FieldType::Text { most: 128, lines: false },
    "The event after which a stream resumes; the same as `after`.",
);

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/events/publish",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(publish(req)),
        doc: Doc {
            text: "An event changes no task by itself; a reaction may create a task from it.",
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
        method: Method::GET,
        path: "/events",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Newest first. With `after`, the events after that one, oldest first; with \
                   `wait`, the call waits for the first of them. A page may be empty and still \
                   have a cursor, because each call searches only a part. With `after`, there is a \
                   cursor only if more can be read at once; send it together with `after`. With \
                   `Accept: text/event-stream`, the response is a stream of server-sent events if \
                   the host supports it.",
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

async fn publish(mut req: Req) -> HandlerResult {
    let body = req.body().await?;
    let (event, origin) = PublishEvent::read_with_origin(&body)?;
    let new = event.into_new_event(req.caller(), req.trace_id(), origin);
    let event = req.core().events().publish(new).await?;
    json(&EventPublished {
        success: true,
        message: format!("Event {} published", event.event_type),
        event_id: event.event_id.to_string(),
        event_type: event.event_type,
    })
}

async fn list(mut req: Req) -> HandlerResult {
    let query = EventQuery::read(req.query(EventQuery::FIELDS))?;
    let last = last_event_id(&req)?;
    let accepts = req.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let wants_stream = accepts.is_some_and(|kinds| kinds.contains("text/event-stream"));
    if wants_stream && req.state.shared().streams {
        return stream(req, query, last).await;
    }
    let tenant = req.caller().tenant.clone();
    let follows = query.cursor.as_ref().is_some_and(|cursor| cursor.starts_with(FOLLOWED.tag));
    let page = if query.after.is_some() || follows {
        events_after(&mut req, query, &tenant).await?
    } else {
        req.core().events().list(&tenant, &query.filter, query.limit, query.cursor).await?
    };
    let events: Vec<_> = page.events.into_iter().map(EventView::from).collect();
    let (count, next_cursor, unreadable) = (events.len(), page.next_cursor, page.unreadable);
    let list = EventList { success: true, count, events, next_cursor, unreadable };
    json_of(req.core(), page.bytes, list).await
}

async fn events_after(
    req: &mut Req,
    query: EventQuery,
    tenant: &TenantId,
) -> Result<EventPage, ApiError> {
    let mut wait = Wait::new(req, Topic::Ledger(tenant.clone()), query.wait)?;
    let core = req.core();
    let mut place = core.events().open_place(tenant, query.after.as_ref(), query.cursor).await?;
    let page = PageSize { entries: query.limit, ..PageSize::default() };
    loop {
        let (filter, now) = (&query.filter, Duration::ZERO);
        let found = core.events().follow(tenant, filter, &mut place, page, now).await?;
        if !found.events.is_empty() || found.more || !wait.more().await? {
            wait.over().await;
            return Ok(found.into_page(tenant, &place));
        }
    }
}

fn last_event_id(req: &Req) -> Result<Option<EventId>, ApiError> {
    let Some(value) = req.headers().get("last-event-id") else { return Ok(None) };
    let id = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| EventId::parse(text).ok());
    let wrong = || ApiError::field("Last-Event-ID", "'Last-Event-ID' is not an event id");
    id.map(Some).ok_or_else(wrong)
}

/// A stream's position in the ledger.
struct Follower {
    state: ApiState,
    session: Session,
    tenant: TenantId,
    filter: EventFilter,
    place: LedgerPlace,
    ready: VecDeque<Bytes>,
    ends: Duration,
    _share: Share,
}

async fn stream(mut req: Req, query: EventQuery, last: Option<EventId>) -> HandlerResult {
    let share = req.state.shared().event_streams.take(req.holder(), 1);
    let share = share.map_err(|full| no_place("event streams", full, KEEP_ALIVE))?;
    let (state, tenant) = (req.state.clone(), req.caller().tenant.clone());
    // An unknown event is reported now, while the response can still be a 404.
    let after = last.or(query.after);
    let mut place = state.core().events().place_after(&tenant, after.as_ref()).await?;
    // A long search continues in the stream.
    state.core().events().find_place(&tenant, &mut place).await?;
    req.release_call();
    let follower = Follower {
        ends: state.core().clock().monotonic() + STREAM_LIFE,
        session: Session::new(state.clone(), req.credential(), req.caller().clone()),
        state,
        tenant,
        filter: query.filter,
        place,
        // A first comment makes the headers be sent.
        ready: VecDeque::from([Bytes::from_static(b": following\n\n")]),
        _share: share,
    };
    let body = axum::body::Body::from_stream(stream::unfold(follower, |mut follower| async {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(chunk), follower))
    }));
    let mut response = axum::response::Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // A proxy that fills a buffer before it forwards would hold everything back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

impl Follower {
    /// Returns the next part of the stream. Ends it when its time is over or its caller has
    /// changed. Nothing is sent without re-authentication.
    async fn next(&mut self) -> Option<Bytes> {
        let clock = self.state.core().clock().clone();
        let quiet_until = clock.monotonic() + KEEP_ALIVE;
        loop {
            let now = clock.monotonic();
            if now >= self.ends {
                return None;
            }
            match self.session.prove().await {
                Ok(()) => {}
                // Unknown for now. The stream waits, and its time passes.
                Err(fault) if fault.retry_after.is_some() => {
                    clock.sleep(PROOF_AGE).await;
                    continue;
                }
                Err(_) => return None,
            }
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if now >= quiet_until {
                return Some(Bytes::from_static(b": keep-alive\n\n"));
            }
            match self.read(PROOF_AGE.min(quiet_until - now)).await {
                Ok(followed) => {
                    let (events, much) = (followed.events, followed.bytes > SMALL);
                    let frames = move |_: &_| events.into_iter().map(frame).collect();
                    self.ready = self.state.core().context().offload().run_if(much, frames).await;
                }
                Err(ServiceError::Busy { after }) => clock.sleep(after).await,
                // The client reconnects with Last-Event-ID and gets the error then.
                Err(_) => return None,
            }
        }
    }

    async fn read(&mut self, wait: Duration) -> Result<EventsAfter, ServiceError> {
        let (core, tenant) = (self.state.core(), &self.tenant);
        // A failed read is repeated from where it began.
        let mut place = self.place.clone();
        let read = core.events().follow(tenant, &self.filter, &mut place, PAGE, wait).await?;
        self.place = place;
        Ok(read)
    }
}

fn frame(event: Event) -> Bytes {
    // A foreign id may contain anything but control characters, so it fits in one line.
    let (id, event_type) = (event.event_id.clone(), event.event_type.clone());
    let data = serde_json::to_string(&EventView::from(event)).expect("an event serializes");
    let data = redact::json(&data);
    let id = redact::text(id.as_str());
    format!("id: {id}\nevent: {event_type}\ndata: {data}\n\n").into()
}
