//! The connections that callers hold: how many, how long without a word, and what happens when
//! there are too many. Nobody can shut the others out by opening them and saying nothing.
//!
//! - `table`: which there are, whose, and which of them gives way to a new one.
//! - `stalled`: a stream whose writing fails when the other side stops reading.
//! - `unread`: what is left of a body that nobody read.
//! - `files`: how many the process can hold open.
//!
//! One time-out covers what comes between two requests: a connection that has not sent the
//! whole head of one within `headers_within` of its opening, or of its last answer, is closed.

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
use table::{Busy, Place};
pub use table::{Figures, Table};
use unread::Watched;

/// As much of a request's head, and of an answer on its way, as a connection keeps itself.
/// Tokens have 8 KB at the most, so heads are smaller.
const MAX_BUFFERED: usize = 64 * 1024;
/// As much of an answer as the system keeps for a client that does not read.
const MAX_UNSENT: usize = 256 * 1024;
/// After an accept that failed, the next is tried so much later; twice as much each time.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// What is said to a connection that has no place, before it is closed.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Retry-After: 5\r\nConnection: close\r\nContent-Type: application/problem+json\r\n\
    Content-Length: 141\r\n\r\n\
    {\"type\":\"urn:watchbill:service-unavailable\",\"title\":\"Service Unavailable\",\
    \"status\":503,\"detail\":\"all connections are taken; try again later\"}";

/// How connections are held to their bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; none: what the process's file handles allow.
    pub most: Option<usize>,
    /// From the opening, or the end of an answer, to the end of a request's head.
    pub headers_within: Duration,
    /// An answer of which nothing is read for so long is broken off.
    pub stalled_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let within = Duration::from_secs(30);
        Self { most: None, headers_within: within, stalled_after: within }
    }
}

/// Where connections come from.
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
    /// Their connections are many callers': they are not counted together.
    pub trusted: TrustedProxies,
    pub clock: Arc<dyn Clock>,
}

impl Server {
    /// Until `stop` is true and all connections have ended. Dropped, it ends them.
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
                () = told(&mut stop) => break,
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

    fn admit(&self, stream: &TcpStream, peer: SocketAddr) -> Option<Place> {
        let address = peer.ip().to_canonical();
        // What comes from this machine, or through a proxy, is not one caller's.
        let is_one = !address.is_loopback() && !self.trusted.contains(address);
        let place = self.table.enter(is_one.then_some(address), self.clock.monotonic());
        if place.is_none() {
            // As much as fits; whoever doesn't read it sees the connection closed.
            let _ = stream.try_write(NO_PLACE);
            return None;
        }
        // Answers are small: waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("nodelay is not to be had: {error}");
        }
        if let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(MAX_UNSENT) {
            tracing::debug!("the send buffer's size can't be set: {error}");
        }
        place
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Place, router: Router) -> Serving {
        Serving { limits: self.limits.clone(), stream, peer, place: Arc::new(place), router }
    }
}

/// One connection.
struct Serving {
    limits: Limits,
    stream: TcpStream,
    peer: SocketAddr,
    place: Arc<Place>,
    router: Router,
}

impl Serving {
    async fn until(self, mut stop: watch::Receiver<bool>) {
        let Self { limits, stream, peer, place, router } = self;
        let io = TokioIo::new(StallGuard::new(stream, limits.stalled_after));
        let called = place.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let busy = called.busy();
            let (head, body) = request.into_parts();
            let (body, unread) = Watched::new(body, &head.headers);
            let mut request: Request = Request::from_parts(head, Body::new(body));
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = router.clone().oneshot(request);
            async move {
                let answer: Result<Response, Infallible> = answer.await;
                let Ok(mut response) = answer;
                if !unread.drained().await {
                    // Clients would send their next call into a connection that ends.
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                let response = response.map(|body| Answering { body, _busy: busy });
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
                () = told(&mut stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Told to end; a sender that is gone tells it too.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Errors of one connection that was gone before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// An answer's body; its connection is busy until it has been handed over.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
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
