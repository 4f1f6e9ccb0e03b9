//! What surrounds each handler: authentication, rate limits, shares, panics, and response
//! headers.

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

use crate::error::{ApiError, seconds_up};
use crate::limits::{LimitKey, RateLimit};
use crate::req::{HeldResources, Req};
use crate::route::{Access, Route};
use crate::routes::{self, approvals, links};
use crate::shares::{BoundReached, Holder};
use crate::state::ApiState;
use crate::{address, answer};

/// Retry delay of a call that got no share: calls are short.
const RETRY_CALL: Duration = Duration::from_secs(1);

/// The router of the whole API. The server may put `ConnectInfo<SocketAddr>` into each request,
/// so that callers without a key are counted by their address.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for (place, route) in routes::all().into_iter().enumerate() {
        let state = state.clone();
        let filter = MethodFilter::try_from(route.method.clone());
        let filter = filter.expect("the routes use the methods that axum knows");
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

/// Handles a known path with another method; axum adds the `Allow` header.
async fn wrong_method(state: ApiState, request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        state.shared().cors.preflight(request.headers(), response.headers_mut());
        security_headers(response.headers_mut());
        return response;
    }
    let shown = redact::shortened(request.method().as_str(), 32);
    let (parts, _) = request.into_parts();
    let fault = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("method {shown} is not allowed here; see the Allow header"),
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
    // The body contains the link's token.
    let early = match is_link(route) {
        true => links::read_early(&state, &parts, body).await,
        false => Ok((body, None)),
    };
    let counted = match &early {
        Ok((_, Some(token))) if links::is_signed(&state, token).await => {
            LimitKey::Known(token.clone())
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
    let response = outcome.unwrap_or_else(ApiError::into_response);
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
) -> Result<Response, ApiError> {
    let params = params.map_err(|_| ApiError::bad_request("the path is not UTF-8 when decoded"))?;
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let share = state.shared().calls.take(&holder, 1);
    let share = share.map_err(|full| no_place("running calls", full, RETRY_CALL))?;
    let held = HeldResources { holder, call: Some(share) };
    let request = Req::new(state.clone(), caller, held, parts, body, params);
    // A handler's panic fails only its own call: what it held is dropped.
    AssertUnwindSafe((route.handler)(request)).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!(route = route.doc.id, panic = panic_text(&*panic), "a handler panicked");
        Err(ApiError::internal())
    })
}

/// Decides whether the call may continue, and as which caller.
fn admit(
    state: &ApiState,
    route: &Route,
    who: Result<Option<Caller>, ApiError>,
) -> Result<Option<Caller>, ApiError> {
    match route.access {
        Access::Public | Access::Link => Ok(None),
        Access::Optional => who.map(|who| who.filter(|caller| caller.role != Role::Operator)),
        Access::Needs(needed) => {
            let Some(caller) = who? else {
                return Err(ApiError::unauthorized(
                    "this call needs a key: send X-API-Key: <key> or Authorization: Bearer <token>",
                ));
            };
            let agents_may = state.core().rules().agents_approve && approvals::decides(route);
            if caller.role.includes(needed) || agents_may && caller.role == Role::Agent {
                return Ok(Some(caller));
            }
            Err(ApiError::forbidden(format!(
                "this call needs the role '{}'; '{}' has '{}'",
                needed.as_str(),
                caller.name,
                caller.role.as_str()
            )))
        }
    }
}

/// Who the call is counted for: an authenticated caller, or an address.
fn holder(state: &ApiState, caller: Option<&Caller>, parts: &Parts) -> Holder {
    if let Some(caller) = caller {
        return Holder { tenant: caller.tenant.to_string(), caller: caller.name.clone() };
    }
    let client = address::client(&state.shared().trusted_proxies, parts);
    let caller = client.map(|client| address::network(client).to_string()).unwrap_or_default();
    Holder { tenant: String::new(), caller }
}

fn counted(holder: &Holder, is_known: bool) -> LimitKey {
    match is_known {
        true => LimitKey::Known(format!("{}/{}", holder.tenant, holder.caller)),
        false => LimitKey::Stranger(holder.caller.clone()),
    }
}

fn count(state: &ApiState, place: usize, counted: &LimitKey) -> Option<RateLimit> {
    state.shared().limiter.take(place, counted, state.core().clock().monotonic())
}

/// The bound is reached by others, or by the caller itself.
pub fn no_place(what: &str, full: BoundReached, after: Duration) -> ApiError {
    let detail = format!("{} has reached its limit of {what}; try again later", full.whose());
    ApiError::unavailable(detail, after)
}

fn too_many(taken: &RateLimit) -> ApiError {
    ApiError {
        retry_after: Some(taken.reset),
        ..ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "more than {} calls to this route in a minute; try again in {} s",
                taken.limit,
                seconds_up(taken.reset)
            ),
        )
    }
}

fn no_route(parts: &Parts) -> ApiError {
    let path = parts.uri.path();
    let decoded = decoded(path);
    // Shown as sent, unless it contains a secret, which escapes would hide from the redaction.
    let path = if redact::holds_secret(&decoded) { &decoded } else { path };
    let shown = redact::shortened(path, 128);
    ApiError::new(StatusCode::NOT_FOUND, format!("path '{shown}' not found; /docs lists all paths"))
}

/// Decodes `%` escapes.
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
    taken: Option<RateLimit>,
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
    security_headers(headers);
    response
}

/// Headers that keep browsers from interpreting a response in unintended ways.
fn security_headers(headers: &mut HeaderMap) {
    const NONE: HeaderValue =
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NONE);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
