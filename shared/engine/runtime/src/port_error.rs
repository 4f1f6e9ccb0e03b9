//! Errors of services outside the process.

use watchbill_core::service::ServiceError;

/// An external service did not respond as it should.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortError {
    /// A retry may succeed.
    #[error("{what} can't be reached: {reason}")]
    Unavailable { what: &'static str, reason: String },
    /// A retry would fail the same way.
    #[error("{what} refused: {reason}")]
    Refused { what: &'static str, reason: String },
}

impl PortError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, PortError::Unavailable { .. })
    }
}

/// Converts an error of the service to one of the port.
pub fn port_error(what: &'static str, error: ServiceError) -> PortError {
    match error {
        ServiceError::Busy { .. } | ServiceError::Down { .. } => {
            PortError::Unavailable { what, reason: error.to_string() }
        }
        other => PortError::Refused { what, reason: other.to_string() },
    }
}
