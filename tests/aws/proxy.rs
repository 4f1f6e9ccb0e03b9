//! A proxy between the adapters and the emulator: records every call, and makes some fail as
//! they do on AWS.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use watchbill_core::ports::Entropy as _;
use watchbill_testkit::SeededEntropy;

use super::trouble::{self, Service, Trouble, Words};

/// More than the largest request or answer of these tests.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A call that reached the emulator.
#[derive(Clone, Debug)]
pub struct Call {
    pub service: Service,
    pub operation: String,
    pub request: Value,
    pub status: u16,
    pub answer: Value,
}

pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    dice: SeededEntropy,
    /// How many of a hundred calls fail.
    percent: AtomicU64,
    calls: Mutex<Vec<Call>>,
    seen: AtomicU64,
    troubles: Mutex<BTreeMap<(Service, Trouble), u64>>,
}

impl Proxy {
    pub async fn start(upstream: &str, seed: u64) -> Self {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let http = http.retry(reqwest::retry::never()).build();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: http.expect("a client needs nothing from outside"),
            dice: SeededEntropy::new(seed),
            percent: AtomicU64::new(0),
            calls: Mutex::default(),
            seen: AtomicU64::new(0),
            troubles: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let app = axum::Router::new().fallback(pass).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("it serves until it is dropped");
        });
        Self { url, shared, serving }
    }

    /// Makes this many of a hundred calls fail from now on.
    pub fn trouble(&self, percent: u64) {
        self.shared.percent.store(percent, Ordering::Relaxed);
    }

    /// Returns the calls since the previous `take_calls`.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.shared.calls))
    }

    /// The number of calls, including those that were not forwarded.
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Relaxed)
    }

    /// The number of failed calls, by service and fault.
    pub fn troubles(&self) -> BTreeMap<(Service, Trouble), u64> {
        lock(&self.shared.troubles).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BYTES).await.expect("the SDK sends whole requests");
    // On its own task: AWS completes a call that it has begun, even if the caller disconnects.
    let passed = tokio::spawn(async move { shared.pass(parts, body).await });
    passed.await.expect("a call is passed on without a panic")
}

impl Shared {
    async fn pass(&self, parts: Parts, body: Bytes) -> Response {
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let target = target.unwrap_or_default();
        let service = Service::of(target);
        let operation = match target.split_once('.') {
            Some((_, operation)) => operation.to_owned(),
            None => format!("{} object", parts.method),
        };
        let trouble = self.draw(service, &operation);
        let mut request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if service == Service::Sqs && trouble::is_refused(&request) {
            return said(trouble::refusal());
        }
        match trouble {
            Some(Trouble::Failed) => return said(trouble::failure(service)),
            Some(Trouble::Throttled) => {
                return said(trouble::throttle(service, &operation, &request, &self.dice));
            }
            _ => {}
        }
        let partly = trouble == Some(Trouble::Partly);
        let taken = if partly { trouble::take_out(&mut request) } else { None };
        let body = if taken.is_some() { request.to_string().into() } else { body };
        let (status, headers, mut bytes) = match self.send(parts, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("the emulator does not answer {operation}: {error:?}"),
        };
        let mut answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if let Some(taken) = taken {
            trouble::put_back(&operation, &taken, &mut answer);
            bytes = answer.to_string().into();
        }
        let call = Call { service, operation, request, status: status.as_u16(), answer };
        lock(&self.calls).push(call);
        let delay = trouble.map_or(Duration::ZERO, |trouble| trouble.delay(&self.dice));
        tokio::time::sleep(delay).await;
        match trouble {
            Some(Trouble::FailedAfter) => said(trouble::failure(service)),
            Some(Trouble::Broken | Trouble::Silent) => broken(),
            _ => answered(status, &headers, bytes),
        }
    }

    fn draw(&self, service: Service, operation: &str) -> Option<Trouble> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if self.dice.next_u64() % 100 >= self.percent.load(Ordering::Relaxed) {
            return None;
        }
        let trouble = Trouble::draw(&self.dice, trouble::takes_batches(operation));
        *lock(&self.troubles).entry((service, trouble)).or_default() += 1;
        Some(trouble)
    }

    async fn send(
        &self,
        parts: Parts,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), reqwest::Error> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = parts.headers;
        for own in [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(own);
        }
        let url = format!("{}{path}", self.upstream);
        let call = self.http.request(parts.method, url).headers(headers).body(body);
        let answer = call.send().await?;
        Ok((answer.status(), answer.headers().clone(), answer.bytes().await?))
    }
}

fn answered(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Response {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    for (name, value) in headers {
        let own = [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING];
        // These describe the body before a part of it was changed.
        if !own.contains(name) && name != "x-amz-crc32" {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

fn said(words: Words) -> Response {
    let answer = Response::builder().status(words.status).header(header::CONTENT_TYPE, words.kind);
    answer.body(Body::from(words.body)).expect("its parts are proper")
}

/// A response that breaks off after its head.
fn broken() -> Response {
    let gone = async { Err::<Bytes, _>(io::Error::other("the connection broke")) };
    let body = Body::from_stream(futures_util::stream::once(gone));
    let answer = Response::builder().header(header::CONTENT_LENGTH, 1_000);
    answer.body(body).expect("its parts are proper")
}
