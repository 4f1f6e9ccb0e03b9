//! Request bodies not read to the end. What has already arrived is read here, so that the
//! connection can be reused; if more is left, the response closes it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use hyper::body::{Frame, Incoming, SizeHint};

/// The most bytes of a body that are read and dropped.
const MAX_DRAINED: usize = 64 * 1024;
/// The most time for that: what was sent with the head has arrived.
const DRAIN_WITHIN: Duration = Duration::from_millis(100);

/// A request's body. When it is dropped, its rest goes to its [`Unread`].
pub struct RequestBody {
    body: Option<Incoming>,
    left: Arc<Mutex<Option<Incoming>>>,
}

/// The rest of a request's body.
pub struct Unread {
    left: Arc<Mutex<Option<Incoming>>>,
    /// The client sends the body only after it is told to continue, which reading would do.
    waits: bool,
}

impl RequestBody {
    pub fn new(body: Incoming, headers: &HeaderMap) -> (Self, Unread) {
        let left = Arc::new(Mutex::new(None));
        let unread = Unread { left: left.clone(), waits: headers.contains_key(header::EXPECT) };
        (Self { body: Some(body), left }, unread)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Unread {
    /// Reads the rest. Returns false if it is too large or does not arrive: the connection can't
    /// be reused.
    pub async fn drained(self) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(body) = left else { return true };
        let too_large = body.size_hint().lower() > MAX_DRAINED as u64;
        if self.waits || too_large {
            return false;
        }
        tokio::time::timeout(DRAIN_WITHIN, drain(body)).await.unwrap_or(false)
    }
}

async fn drain(mut body: Incoming) -> bool {
    let mut room = MAX_DRAINED;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if bytes > room {
            return false;
        }
        room -= bytes;
    }
    true
}
