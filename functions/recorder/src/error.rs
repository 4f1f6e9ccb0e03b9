//! Why a tenant's changes could not be recorded, and whether that concerns its other changes.

use std::any::Any;

use watchbill_core::handler::panic_text;
use watchbill_core::ports::StoreError;
use watchbill_core::service::{ServiceError, TransactError};

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another recorder wrote to the same ledger: retry on its current state.
    #[error("{0}")]
    Contended(String),
    /// The store fails or refuses: nothing of this tenant can be recorded for now.
    #[error("{0}")]
    Store(String),
    /// Concerns one of the changes; the others may be fine.
    #[error("{0}")]
    Change(String),
}

impl From<StoreError> for RecordError {
    fn from(error: StoreError) -> Self {
        RecordError::Store(error.to_string())
    }
}

impl From<TransactError> for RecordError {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Busy { .. } | TransactError::Unknown { .. } => {
                RecordError::Store("the store stays busy".to_owned())
            }
            TransactError::Illegal { reason } => RecordError::Change(reason),
            TransactError::Store(error) => error.into(),
        }
    }
}

impl From<ServiceError> for RecordError {
    fn from(error: ServiceError) -> Self {
        RecordError::Store(error.to_string())
    }
}

impl RecordError {
    /// The error of a panic.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        RecordError::Change(format!("panicked: {}", panic_text(panic)))
    }
}
