//! What a failed call of the service means to the handler of a message.

use std::time::Duration;

use super::ServiceError;
use crate::handler::HandlerError;
use crate::ports::StoreError;

impl From<ServiceError> for HandlerError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Busy { after } => HandlerError::retry(after, "the store is busy"),
            ServiceError::Down { reason } => HandlerError::retry(Duration::from_secs(5), reason),
            // Until somebody mends it: what rests on it may not be taken as done.
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
