use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use watchbill_core::offload::{Abandoned, SMALL};
use watchbill_core::service::Core;
use watchbill_domain::Role;
use watchbill_redact as redact;
use watchbill_wire::Field;

use crate::fault::Fault;
use crate::req::Req;

pub type Answer = Result<Response, Fault>;
pub type Handler = fn(Req) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The methods we use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        }
    }
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Anyone. A key that is sent is only looked at to count the calls.
    Public,
    /// Anyone, and a caller with a role sees more. A wrong key is refused.
    Optional,
    /// Whoever has the link that the path's `token` is; no key is looked at.
    Link,
    /// Whoever has this role or one that includes it.
    Needs(Role),
}

/// One call of the API.
pub struct Route {
    pub verb: Verb,
    /// With its parameters in braces.
    pub path: &'static str,
    pub access: Access,
    pub handler: Handler,
    pub doc: Doc,
}

impl Route {
    /// `POST /tasks`: as rate limits name it.
    pub fn name(&self) -> String {
        format!("{} {}", self.verb.as_str(), self.path)
    }
}

/// What the OpenAPI document says of a route.
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
    /// Beyond those that every route of its access has.
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
    /// Exactly one of the fields is to be given.
    pub one_of: bool,
    /// JSON.
    pub example: &'static str,
}

/// The answer when all went well.
#[derive(Clone, Copy)]
pub enum Success {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Another content type.
    Text(&'static str),
    /// JSON, or server-sent events for who accepts those.
    JsonOrStream(fn(&mut SchemaGenerator) -> Schema),
}

/// `200` with a JSON body, written once and without secrets.
pub fn json<T: Serialize>(answer: &T) -> Answer {
    Ok(raw(StatusCode::OK, "application/json", clean(written(answer)?)))
}

/// The same for the few answers that give a secret away on purpose, or that must be just what
/// was recorded.
pub fn json_as_is<T: Serialize>(answer: &T) -> Answer {
    Ok(raw(StatusCode::OK, "application/json", written(answer)?.into()))
}

/// The same for an answer that may be large: one of more than a few kilobytes is written and
/// cleaned beside the runtime's threads, unless its caller is gone.
pub async fn json_of<T>(core: &Core, bytes: usize, answer: T) -> Answer
where
    T: Serialize + Send + 'static,
{
    let write = move |abandoned: &Abandoned| {
        let body = written(&answer)?;
        // Nobody waits for it any more.
        if abandoned.is_set() { Err(Fault::internal()) } else { Ok(clean(body)) }
    };
    let body = core.context().offload().run_if(bytes > SMALL, write).await?;
    Ok(raw(StatusCode::OK, "application/json", body))
}

/// The same for what must be just what was recorded.
pub async fn json_as_is_of<T>(core: &Core, bytes: usize, answer: T) -> Answer
where
    T: Serialize + Send + 'static,
{
    let body = core.context().offload().run_if(bytes > SMALL, move |_| written(&answer)).await?;
    Ok(raw(StatusCode::OK, "application/json", body.into()))
}

fn written<T: Serialize>(answer: &T) -> Result<String, Fault> {
    let mut body = Vec::with_capacity(1024);
    serde_json::to_writer(&mut body, answer).map_err(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        Fault::internal()
    })?;
    Ok(String::from_utf8(body).expect("serde_json writes UTF-8"))
}

/// JSON without secrets; untouched where there are none.
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
