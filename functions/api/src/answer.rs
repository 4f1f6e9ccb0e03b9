//! The bytes of answers under way. What a client does not read stays in memory, so it counts
//! until it has been handed to the system or the connection has ended.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::response::Response;
use bytes::Bytes;

use crate::fault::Fault;
use crate::serve::no_place;
use crate::shares::{Holder, Share, Shares};

/// Smaller answers go into the system's own buffer at once, whether they are read or not.
const MIN_COUNTED: u64 = 4 * 1024;
/// When to come back: a client that reads at all has read on by then.
const RETRY_ANSWER: Duration = Duration::from_secs(2);

/// An answer's bytes with the share they take; both are given back with the last reference.
struct Kept {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The answer, if its bytes have a place among those under way. Streams have no size; they are
/// bounded by their number.
pub async fn bounded(
    shares: &Shares,
    holder: &Holder,
    response: Response,
) -> Result<Response, Fault> {
    let size = response.body().size_hint().exact().filter(|size| *size >= MIN_COUNTED);
    let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else { return Ok(response) };
    let full = |full| no_place("bytes of unread answers", full, RETRY_ANSWER);
    let share = shares.take(holder, size).map_err(full)?;
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, size).await.map_err(|error| {
        tracing::error!(%error, "an answer of known size can't be read");
        Fault::internal()
    })?;
    let kept = Bytes::from_owner(Kept { bytes, _share: share });
    Ok(Response::from_parts(parts, Body::from(kept)))
}
