//! What something outside did not do.

use watchbill_core::service::ServiceError;

/// Something outside did not answer as it should.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortError {
    /// The same again may work.
    #[error("{what} can't be reached: {reason}")]
    Unavailable { what: &'static str, reason: String },
    /// The same again would not.
    #[error("{what} refused: {reason}")]
    Refused { what: &'static str, reason: String },
}

impl PortError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, PortError::Unavailable { .. })
    }
}

/// A failed call of the service, as a failure of what was asked of it.
pub fn port_error(what: &'static str, error: ServiceError) -> PortError {
    match error {
        ServiceError::Busy { .. } | ServiceError::Down { .. } => {
            PortError::Unavailable { what, reason: error.to_string() }
        }
        other => PortError::Refused { what, reason: other.to_string() },
    }
}
