//! What happens around each handler.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use axum::{RequestExt as _, extract::rejection::RawPathParamsRejection};
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use watchbill_core::handler::panic_text;
use watchbill_domain::{Caller, Role};
use watchbill_redact as redact;

use crate::fault::{Fault, seconds_up};
use crate::limits::{Counted, Taken};
use crate::req::{Held, Req};
use crate::route::{Access, Route, Verb};
use crate::routes::{self, approvals, links};
use crate::shares::{Full, Holder};
use crate::state::ApiState;
use crate::{address, answer};

/// When to come back with a call that had no place: calls are short.
const RETRY_CALL: Duration = Duration::from_secs(1);

/// The whole API. Whoever serves it may put `ConnectInfo<SocketAddr>` into each request, so
/// that callers without a key are counted by their address.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for (place, route) in routes::all().into_iter().enumerate() {
        let state = state.clone();
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
            Verb::Patch => MethodFilter::PATCH,
            Verb::Delete => MethodFilter::DELETE,
        };
        let method = MethodRouter::new().on(filter, move |request: Request| {
            serve(state.clone(), Some((place, route)), request)
        });
        router = router.route(route.path, method);
    }
    let (unmatched, other_method) = (state.clone(), state);
    router
        .fallback(move |request| serve(unmatched.clone(), None, request))
        .method_not_allowed_fallback(move |request| wrong_method(other_method.clone(), request))
}

/// A path of ours with another method; axum adds the `Allow` header.
async fn wrong_method(state: ApiState, request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        state.shared().cors.preflight(request.headers(), response.headers_mut());
        harden(response.headers_mut());
        return response;
    }
    let shown = redact::shortened(request.method().as_str(), 32);
    let (parts, _) = request.into_parts();
    let fault = Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("method {shown} is not allowed here; the Allow header says which are"),
    );
    let counted = counted(&holder(&state, None, &parts), false);
    let taken = count(&state, state.shared().limiter.no_route(), &counted);
    let fault = taken.filter(|t| t.refused).map_or(fault, |t| too_many(&t));
    finish(&state, &parts.headers, taken, fault.into_response())
}

async fn serve(
    state: ApiState,
    route: Option<(usize, &'static Route)>,
    mut request: Request,
) -> Response {
    let params = request.extract_parts::<RawPathParams>().await;
    let (parts, body) = request.into_parts();
    let place = route.map_or(state.shared().limiter.no_route(), |(place, _)| place);
    let who = state.shared().auth.caller(state.core(), &parts.headers).await;
    let known = who.as_ref().ok().and_then(Option::as_ref);
    let holder = holder(&state, known, &parts);
    // Which link is used stands in the body.
    let early = match is_link(route) {
        true => links::read_early(&state, &parts, body).await,
        false => Ok((body, None)),
    };
    let counted = match &early {
        Ok((_, Some(token))) if links::is_signed(&state, token).await => {
            Counted::Known(token.clone())
        }
        _ => counted(&holder, known.is_some() && !is_link(route)),
    };
    let taken = count(&state, place, &counted);
    let asked = parts.headers.clone();
    let outcome = match (taken, route) {
        (Some(taken), _) if taken.refused => Err(too_many(&taken)),
        (_, None) => Err(no_route(&parts)),
        (_, Some((_, route))) => match admit(&state, route, who) {
            Err(fault) => Err(fault),
            Ok(caller) => match early {
                Err(fault) => Err(fault),
                Ok((body, _)) => {
                    call(&state, route, caller, holder.clone(), parts, body, params).await
                }
            },
        },
    };
    let outcome = match outcome {
        Ok(response) => answer::bounded(&state.shared().answers, &holder, response).await,
        Err(fault) => Err(fault),
    };
    let response = outcome.unwrap_or_else(Fault::into_response);
    finish(&state, &asked, taken, response)
}

fn is_link(route: Option<(usize, &Route)>) -> bool {
    route.is_some_and(|(_, route)| route.access == Access::Link)
}

async fn call(
    state: &ApiState,
    route: &'static Route,
    caller: Option<Caller>,
    holder: Holder,
    parts: Parts,
    body: axum::body::Body,
    params: Result<RawPathParams, RawPathParamsRejection>,
) -> Result<Response, Fault> {
    let params = params.map_err(|_| Fault::bad_request("the path is not UTF-8 when decoded"))?;
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let share = state.shared().calls.take(&holder, 1);
    let share = share.map_err(|full| no_place("calls under way", full, RETRY_CALL))?;
    let held = Held { holder, call: Some(share) };
    let request = Req::new(state.clone(), caller, held, parts, body, params);
    // A handler's panic costs its own call, nothing else: what it held is dropped.
    AssertUnwindSafe((route.handler)(request)).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!(route = route.doc.id, panic = panic_text(&*panic), "a handler panicked");
        Err(Fault::internal())
    })
}

/// Who may go on, and as whom.
fn admit(
    state: &ApiState,
    route: &Route,
    who: Result<Option<Caller>, Fault>,
) -> Result<Option<Caller>, Fault> {
    match route.access {
        Access::Public | Access::Link => Ok(None),
        Access::Optional => who.map(|who| who.filter(|caller| caller.role != Role::Operator)),
        Access::Needs(needed) => {
            let Some(caller) = who? else {
                return Err(Fault::unauthorized(
                    "this call needs a key: send X-API-Key: <key> or Authorization: Bearer <token>",
                ));
            };
            let agents_may = state.core().rules().agents_approve && approvals::decides(route);
            if caller.role.includes(needed) || agents_may && caller.role == Role::Agent {
                return Ok(Some(caller));
            }
            Err(Fault::forbidden(format!(
                "this call needs the role '{}'; '{}' has '{}'",
                needed.as_str(),
                caller.name,
                caller.role.as_str()
            )))
        }
    }
}

/// Who calls: somebody with a key or token, or an address.
fn holder(state: &ApiState, caller: Option<&Caller>, parts: &Parts) -> Holder {
    if let Some(caller) = caller {
        return Holder { tenant: caller.tenant.to_string(), caller: caller.name.clone() };
    }
    let client = address::client(&state.shared().trusted_proxies, parts);
    let caller = client.map(|client| address::network(client).to_string()).unwrap_or_default();
    Holder { tenant: String::new(), caller }
}

fn counted(holder: &Holder, is_known: bool) -> Counted {
    match is_known {
        true => Counted::Known(format!("{}/{}", holder.tenant, holder.caller)),
        false => Counted::Stranger(holder.caller.clone()),
    }
}

fn count(state: &ApiState, place: usize, counted: &Counted) -> Option<Taken> {
    state.shared().limiter.take(place, counted, state.core().clock().monotonic())
}

/// What is bounded is held to its bound by others, or by the caller itself.
pub fn no_place(what: &str, full: Full, after: Duration) -> Fault {
    let detail = format!("{} has all the {what} that it may; try again later", full.whose());
    Fault::unavailable(detail, after)
}

fn too_many(taken: &Taken) -> Fault {
    Fault {
        retry_after: Some(taken.reset),
        ..Fault::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "more than {} calls of this kind in a minute; try again in {} s",
                taken.limit,
                seconds_up(taken.reset)
            ),
        )
    }
}

fn no_route(parts: &Parts) -> Fault {
    let path = parts.uri.path();
    let decoded = decoded(path);
    // As it was sent, unless there is a secret in it, which its escapes would hide from us.
    let path = if redact::holds_secret(&decoded) { &decoded } else { path };
    let shown = redact::shortened(path, 128);
    Fault::new(
        StatusCode::NOT_FOUND,
        format!("path '{shown}' not found; /docs lists what there is"),
    )
}

/// Without `%` escapes.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| path_byte(after)).flatten();
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn path_byte(hex: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*hex.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn finish(
    state: &ApiState,
    asked: &HeaderMap,
    taken: Option<Taken>,
    mut response: Response,
) -> Response {
    let headers = response.headers_mut();
    if let Some(taken) = taken {
        let ends = state.core().clock().now().plus(taken.reset).millis();
        for (name, value) in [
            ("x-ratelimit-limit", u64::from(taken.limit)),
            ("x-ratelimit-remaining", u64::from(taken.remaining)),
            ("x-ratelimit-reset", (ends.max(0) as u64).div_ceil(1000)),
        ] {
            headers.insert(HeaderName::from_static(name), value.into());
        }
    }
    state.shared().cors.apply(asked, headers);
    harden(headers);
    response
}

/// Headers that keep a browser from making more of an answer than it is.
fn harden(headers: &mut HeaderMap) {
    const NONE: HeaderValue =
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NONE);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
