//! Limits connections: how many, and how long they may be idle. No one can shut others out by
//! opening idle connections.
//!
//! - `table`: the open connections, and which of them gives way to a new one.
//! - `stalled`: a stream whose writes fail when the other side stops reading.
//! - `unread`: the rest of a request body that no handler read.
//! - `files`: how many connections the process can hold open.
//!
//! One timeout covers the time between requests: a connection is closed unless the whole head
//! arrives within `headers_within` of its opening, or of its last response.

pub mod files;
mod stalled;
mod table;
mod unread;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;
use watchbill_api::TrustedProxies;
use watchbill_core::ports::Clock;

use stalled::StallGuard;
use table::{Busy, ConnectionSlot};
pub use table::{ConnectionMetrics, Table};
use unread::RequestBody;

/// The most of a head, or of a response being sent, that a connection buffers. Tokens have at
/// most 8 KB, so heads are smaller.
const MAX_BUFFERED: usize = 64 * 1024;
/// How much of a response the system buffers for a client that does not read.
const MAX_UNSENT: usize = 256 * 1024;
/// The delay after a failed accept, with exponential backoff from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// The response to a connection that gets no place, before it is closed.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Retry-After: 5\r\nConnection: close\r\nContent-Type: application/problem+json\r\n\
    Content-Length: 141\r\n\r\n\
    {\"type\":\"urn:watchbill:service-unavailable\",\"title\":\"Service Unavailable\",\
    \"status\":503,\"detail\":\"all connections are taken; try again later\"}";

/// The limits of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at once. `None`: as many as the process's file handles allow.
    pub most: Option<usize>,
    /// From the opening, or the end of a response, to the end of a request's head.
    pub headers_within: Duration,
    /// A response of which nothing is read for this long is broken off.
    pub stalled_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let within = Duration::from_secs(30);
        Self { most: None, headers_within: within, stalled_after: within }
    }
}

/// A source of connections.
pub trait Accept: Send {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        TcpListener::accept(self)
    }
}

/// Serves a router over HTTP/1.1.
pub struct Server {
    pub limits: Limits,
    pub table: Arc<Table>,
    /// Connections through these proxies belong to many callers, so they have no common limit.
    pub trusted: TrustedProxies,
    pub clock: Arc<dyn Clock>,
}

impl Server {
    /// Runs until `stop` is true and all connections have ended. If dropped, it ends them.
    pub async fn run(
        &self,
        mut listener: impl Accept,
        router: Router,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        let mut retry = FIRST_RETRY;
        let stopped = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop_requested(&mut stop) => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        retry = FIRST_RETRY;
                        if let Some(place) = self.admit(&stream, peer) {
                            let serving = self.serve(stream, peer, place, router.clone());
                            tasks.spawn(serving.until(stopped.clone()));
                        }
                    }
                    Err(error) if is_of_the_client(&error) => {}
                    Err(error) => {
                        self.table.accept_failed(&error, self.clock.monotonic());
                        self.clock.sleep(retry).await;
                        retry = (retry * 2).min(LAST_RETRY);
                    }
                }
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    fn admit(&self, stream: &TcpStream, peer: SocketAddr) -> Option<ConnectionSlot> {
        let address = peer.ip().to_canonical();
        // Connections from this machine, or through a proxy, do not belong to one caller.
        let is_one = !address.is_loopback() && !self.trusted.contains(address);
        let place = self.table.enter(is_one.then_some(address), self.clock.monotonic());
        if place.is_none() {
            // As much as fits. A client that does not read it sees the connection closed.
            let _ = stream.try_write(NO_PLACE);
            return None;
        }
        // Responses are small: waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY can't be set: {error}");
        }
        if let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(MAX_UNSENT) {
            tracing::debug!("the send buffer's size can't be set: {error}");
        }
        place
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: ConnectionSlot,
        router: Router,
    ) -> Connection {
        Connection { limits: self.limits.clone(), stream, peer, place: Arc::new(place), router }
    }
}

struct Connection {
    limits: Limits,
    stream: TcpStream,
    peer: SocketAddr,
    place: Arc<ConnectionSlot>,
    router: Router,
}

impl Connection {
    async fn until(self, mut stop: watch::Receiver<bool>) {
        let Self { limits, stream, peer, place, router } = self;
        let io = TokioIo::new(StallGuard::new(stream, limits.stalled_after));
        let called = place.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let busy = called.busy();
            let (head, body) = request.into_parts();
            let (body, unread) = RequestBody::new(body, &head.headers);
            let mut request: Request = Request::from_parts(head, Body::new(body));
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = router.clone().oneshot(request);
            async move {
                let answer: Result<Response, Infallible> = answer.await;
                let Ok(mut response) = answer;
                if !unread.drained().await {
                    // Otherwise clients would send their next call into a connection that
                    // closes.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                let response = response.map(|body| ResponseBody { body, _busy: busy });
                Ok::<_, Infallible>(response)
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.headers_within)
            .max_buf_size(MAX_BUFFERED);
        let mut connection = pin!(http.serve_connection(io, service));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early: {error}");
                    }
                    return;
                }
                () = place.gave_way() => return,
                () = stop_requested(&mut stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Waits for the stop. A dropped sender counts as a stop.
async fn stop_requested(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Errors of a connection that was closed before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A response's body. Its connection is busy until the body is passed on completely.
struct ResponseBody {
    body: Body,
    _busy: Busy,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
