//! Bounds the bytes of responses in transit. Unread bytes stay in memory, so they count until
//! the system has taken them or the connection has ended.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::response::Response;
use bytes::Bytes;

use crate::error::ApiError;
use crate::serve::no_place;
use crate::shares::{Holder, Share, Shares};

/// Smaller responses fit into the system's own buffer, whether they are read or not.
const MIN_COUNTED: u64 = 4 * 1024;
/// Retry delay: a client that reads at all has read more by then.
const RETRY_ANSWER: Duration = Duration::from_secs(2);

/// A response's bytes with their share; both are released with the last reference.
struct SharedBytes {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the response if its bytes fit within the bound. Streams have no known size; their
/// number is bounded instead.
pub async fn bounded(
    shares: &Shares,
    holder: &Holder,
    response: Response,
) -> Result<Response, ApiError> {
    let size = response.body().size_hint().exact().filter(|size| *size >= MIN_COUNTED);
    let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else { return Ok(response) };
    let full = |full| no_place("unread response bytes", full, RETRY_ANSWER);
    let share = shares.take(holder, size).map_err(full)?;
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, size).await.map_err(|error| {
        tracing::error!(%error, "a response body of known size can't be read");
        ApiError::internal()
    })?;
    let kept = Bytes::from_owner(SharedBytes { bytes, _share: share });
    Ok(Response::from_parts(parts, Body::from(kept)))
}
