//! What a route is: its method, path, access, documentation and handler; and JSON responses.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use watchbill_core::offload::{IsAbandoned, SMALL};
use watchbill_core::service::Core;
use watchbill_domain::Role;
use watchbill_redact as redact;
use watchbill_wire::Field;

use crate::error::ApiError;
use crate::req::Req;

pub type HandlerResult = Result<Response, ApiError>;
pub type Handler = fn(Req) -> Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Anyone. A key is used only to count the calls.
    Public,
    /// Anyone; a caller with a role sees more. An invalid key is refused.
    Optional,
    /// Anyone who has the link that the token belongs to; keys are ignored.
    Link,
    /// Callers with this role or one that includes it.
    Needs(Role),
}

/// One route of the API.
pub struct Route {
    pub method: Method,
    /// With its parameters in braces.
    pub path: &'static str,
    pub access: Access,
    pub handler: Handler,
    pub doc: Doc,
}

impl Route {
    /// The name that rate limits use, such as `POST /tasks`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The route's part of the OpenAPI document.
pub struct Doc {
    pub group: &'static str,
    /// Unique; for generated clients.
    pub id: &'static str,
    pub summary: &'static str,
    pub text: &'static str,
    pub path: &'static [Field],
    pub query: &'static [Field],
    pub headers: &'static [Field],
    pub body: Option<Body>,
    pub ok: Success,
    /// In addition to those that every route of its access has.
    pub errors: &'static [u16],
}

impl Doc {
    pub const fn new(
        group: &'static str,
        id: &'static str,
        summary: &'static str,
        ok: Success,
    ) -> Self {
        Self {
            group,
            id,
            summary,
            text: "",
            path: &[],
            query: &[],
            headers: &[],
            body: None,
            ok,
            errors: &[],
        }
    }
}

/// A JSON body.
#[derive(Clone, Copy)]
pub struct Body {
    pub fields: &'static [Field],
    pub required: bool,
    /// Exactly one of the fields must be given.
    pub one_of: bool,
    /// JSON.
    pub example: &'static str,
}

/// The response of a successful call.
#[derive(Clone, Copy)]
pub enum Success {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Another content type.
    Text(&'static str),
    /// JSON, or server-sent events for clients that accept them.
    JsonOrStream(fn(&mut SchemaGenerator) -> Schema),
}

/// `200` with a JSON body, serialized once and redacted.
pub fn json<T: Serialize>(answer: &T) -> HandlerResult {
    Ok(raw(StatusCode::OK, "application/json", clean(written(answer)?)))
}

/// Like `json` without redaction, for the few responses that return a secret on purpose or must
/// be exactly what was recorded.
pub fn json_as_is<T: Serialize>(answer: &T) -> HandlerResult {
    Ok(raw(StatusCode::OK, "application/json", written(answer)?.into()))
}

/// Like `json` for a response that may be large: above a few kilobytes it is serialized off the
/// runtime's threads, unless its caller has disconnected.
pub async fn json_of<T>(core: &Core, bytes: usize, answer: T) -> HandlerResult
where
    T: Serialize + Send + 'static,
{
    let write = move |abandoned: &IsAbandoned| {
        let body = written(&answer)?;
        // The caller has disconnected.
        if abandoned.is_set() { Err(ApiError::internal()) } else { Ok(clean(body)) }
    };
    let body = core.context().offload().run_if(bytes > SMALL, write).await?;
    Ok(raw(StatusCode::OK, "application/json", body))
}

/// Like `json_of` without redaction, for what must be exactly what was recorded.
pub async fn json_as_is_of<T>(core: &Core, bytes: usize, answer: T) -> HandlerResult
where
    T: Serialize + Send + 'static,
{
    let body = core.context().offload().run_if(bytes > SMALL, move |_| written(&answer)).await?;
    Ok(raw(StatusCode::OK, "application/json", body.into()))
}

fn written<T: Serialize>(answer: &T) -> Result<String, ApiError> {
    let mut body = Vec::with_capacity(1024);
    serde_json::to_writer(&mut body, answer).map_err(|error| {
        tracing::error!(%error, "a response can't be serialized");
        ApiError::internal()
    })?;
    Ok(String::from_utf8(body).expect("serde_json writes UTF-8"))
}

/// Redacts JSON; returns it unchanged if it contains no secrets.
pub fn clean(json: String) -> Bytes {
    let changed = match redact::json(&json) {
        Cow::Borrowed(_) => None,
        Cow::Owned(clean) => Some(clean),
    };
    changed.unwrap_or(json).into()
}

pub fn raw(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
