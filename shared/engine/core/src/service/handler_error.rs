//! Maps a service error to the message handler's error.

use std::time::Duration;

use super::ServiceError;
use crate::handler::HandlerError;
use crate::ports::StoreError;

impl From<ServiceError> for HandlerError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Busy { after } => HandlerError::retry(after, "the store is busy"),
            ServiceError::Down { reason } => HandlerError::retry(Duration::from_secs(5), reason),
            // Until someone repairs it: work that depends on it must not count as done.
            unreadable @ ServiceError::Unreadable { .. } => {
                HandlerError::retry(Duration::from_secs(60), unreadable.to_string())
            }
            other => HandlerError::Reject { reason: other.to_string() },
        }
    }
}

impl From<StoreError> for HandlerError {
    fn from(error: StoreError) -> Self {
        ServiceError::from(error).into()
    }
}
