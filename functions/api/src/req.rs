//! A request to a handler: its caller, parameters, headers and body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use watchbill_core::service::{Core, Identity};
use watchbill_domain::Caller;
use watchbill_redact as redact;
use watchbill_wire::{Field, FieldType, Form};

use crate::auth::Credential;
use crate::error::ApiError;
use crate::serve::no_place;
use crate::shares::{Holder, Share};
use crate::state::ApiState;

/// Maximum body size in bytes. A payload of 200 KB fits even if every character is escaped.
const BODY_LIMIT: usize = 1024 * 1024 + 256 * 1024;
/// Smaller bodies arrive in one piece and do not count as unfinished.
const MIN_COUNTED: usize = 16 * 1024;
/// Retry delay for a body without room: others have arrived or been dropped by then.
const RETRY_BODY: Duration = Duration::from_secs(2);

pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

pub const IDEMPOTENCY: Field = Field::optional(
    IDEMPOTENCY_KEY,
    FieldType::Word {
        pattern: "^[!-~]+$",
        most: 255,
        fits: |text| text.bytes().all(|b| b.is_ascii_graphic()),
        like: "1 to 255 visible ASCII characters without spaces",
    },
    "A repeat with the same key and body returns the same task; with another body it fails with \
     409. Keys are kept for 24 h.",
);

/// A call whose caller is authenticated and authorized.
pub struct Req {
    pub state: ApiState,
    pub caller: Option<Caller>,
    held: HeldResources,
    parts: Parts,
    body: axum::body::Body,
    params: Vec<(String, String)>,
}

/// The bounded resources that a call holds.
pub struct HeldResources {
    pub holder: Holder,
    /// Its share of the running calls; a call that starts to wait releases it.
    pub call: Option<Share>,
}

impl Req {
    pub fn new(
        state: ApiState,
        caller: Option<Caller>,
        held: HeldResources,
        parts: Parts,
        body: axum::body::Body,
        params: Vec<(String, String)>,
    ) -> Self {
        Self { state, caller, held, parts, body, params }
    }

    /// Who the call's shares are counted for.
    pub fn holder(&self) -> &Holder {
        &self.held.holder
    }

    /// Releases the call's share of the running calls, because it holds one of another kind.
    pub fn release_call(&mut self) {
        self.held.call = None;
    }

    /// The key or token that authenticated the caller.
    pub fn credential(&self) -> Credential {
        Credential::of(&self.parts.headers)
    }

    pub fn core(&self) -> &Core {
        self.state.core()
    }

    /// The caller of a route that requires a role.
    pub fn caller(&self) -> &Caller {
        self.caller.as_ref().expect("a route that needs a role runs only for a caller")
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Parses a path parameter.
    pub fn param<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ApiError> {
        let value = self.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        parse(value.unwrap_or_default()).map_err(|error| ApiError::field(name, error.to_string()))
    }

    pub fn query(&self, fields: &'static [Field]) -> Form {
        let query = self.parts.uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes());
        Form::from_query(fields, pairs.map(|(name, value)| (name.into(), value.into())))
    }

    /// Reads the JSON body. A missing content type counts as JSON.
    pub async fn body(&mut self) -> Result<Bytes, ApiError> {
        if let Some(kind) = self.parts.headers.get(header::CONTENT_TYPE) {
            let kind = kind.to_str().unwrap_or_default();
            if !is_json(kind) {
                let shown = redact::shortened(kind, 64);
                return Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("content type '{shown}' is not supported: send application/json"),
                ));
            }
        }
        self.read().await
    }

    /// Reads the fields of an HTML form. Returns `None` if the body has another type.
    pub async fn form_body(&mut self) -> Result<Option<Vec<(String, String)>>, ApiError> {
        if !is_form(&self.parts.headers) {
            return Ok(None);
        }
        let body = self.read().await?;
        Ok(Some(form_urlencoded::parse(&body).into_owned().collect()))
    }

    /// Reads a body that may be missing. An empty body is accepted whatever its type.
    pub async fn optional_body(&mut self) -> Result<Bytes, ApiError> {
        let empty = http_body_is_empty(&self.body);
        if empty { Ok(Bytes::new()) } else { self.body().await }
    }

    async fn read(&mut self) -> Result<Bytes, ApiError> {
        self.demand_plain()?;
        let size = self.parts.headers.get(header::CONTENT_LENGTH);
        let size = size.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
        let size = size.unwrap_or(BODY_LIMIT);
        if size > BODY_LIMIT {
            return Err(too_large(BODY_LIMIT));
        }
        let shared = self.state.shared();
        let room = (size >= MIN_COUNTED).then(|| shared.bodies.take(&self.held.holder, size));
        let full = |full| no_place("unfinished body bytes", full, RETRY_BODY);
        let _room = room.transpose().map_err(full)?;
        body_within(&self.state, std::mem::take(&mut self.body), BODY_LIMIT).await
    }

    /// Bodies are read as they arrive: a compressed one could expand beyond every bound.
    fn demand_plain(&self) -> Result<(), ApiError> {
        let codings = self.parts.headers.get_all(header::CONTENT_ENCODING).iter();
        let named = codings.flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let named = named.map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned());
        let mut unsupported =
            named.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
        let Some(coding) = unsupported.next() else { return Ok(()) };
        let shown = redact::shortened(&coding, 32);
        let detail = format!(
            "content encoding '{shown}' is not supported: send the body uncompressed, without \
             Content-Encoding"
        );
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
    }

    /// The trace id of a W3C `traceparent` header.
    pub fn trace_id(&self) -> Option<String> {
        let mut parts = self.parts.headers.get("traceparent")?.to_str().ok()?.split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let zero = trace.bytes().all(|b| b == b'0');
        (hex(version, 2) && version != "ff" && hex(trace, 32) && !zero).then(|| trace.to_owned())
    }

    pub fn identity(&self) -> Result<Identity, ApiError> {
        let Some(value) = self.parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Identity::Fresh);
        };
        let fits = |text: &&str| {
            (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        match value.to_str().ok().filter(fits) {
            Some(text) => Ok(Identity::IdempotencyKey(text.to_owned())),
            None => Err(ApiError::field(
                IDEMPOTENCY_KEY,
                "'Idempotency-Key' must be 1 to 255 visible ASCII characters without spaces",
            )),
        }
    }
}

/// Whether the headers announce an HTML form.
pub fn is_form(headers: &HeaderMap) -> bool {
    const FORM: &str = "application/x-www-form-urlencoded";
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(FORM)
}

/// Reads a body of at most `most` bytes within the time limit.
pub async fn body_within(
    state: &ApiState,
    body: axum::body::Body,
    most: usize,
) -> Result<Bytes, ApiError> {
    let within = state.shared().body_within;
    tokio::select! {
        // What has already arrived is accepted, whatever the time.
        biased;
        body = whole(body, most) => body,
        () = state.core().clock().sleep(within) => {
            let detail = format!("the body did not arrive within {} s", within.as_secs_f64());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

fn too_large(most: usize) -> ApiError {
    let detail = format!("the body is larger than the maximum of {most} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

async fn whole(body: axum::body::Body, most: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let broken = |_| ApiError::bad_request("the body was cut off: send it completely");
    let Some(first) = stream.next().await.transpose().map_err(broken)? else {
        return Ok(Bytes::new());
    };
    let mut rest = BytesMut::new();
    while let Some(chunk) = stream.next().await.transpose().map_err(broken)? {
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        if rest.len() + chunk.len() > most {
            return Err(too_large(most));
        }
        rest.extend_from_slice(&chunk);
    }
    let whole = if rest.is_empty() { first } else { rest.freeze() };
    if whole.len() > most { Err(too_large(most)) } else { Ok(whole) }
}

fn http_body_is_empty(body: &axum::body::Body) -> bool {
    use axum::body::HttpBody as _;
    body.is_end_stream()
}

/// `application/json`, with or without a charset, and `application/…+json`.
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}
