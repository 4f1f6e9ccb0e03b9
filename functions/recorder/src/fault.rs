//! Why changes of a tenant could not be recorded, and what that says of the others.

use std::any::Any;

use watchbill_core::handler::panic_text;
use watchbill_core::ports::StoreError;
use watchbill_core::service::{ServiceError, TransactError};

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Another recorder wrote to the same ledger: again, on what is there now.
    #[error("{0}")]
    Contended(String),
    /// The store refuses or fails: nothing of this tenant can be recorded for now.
    #[error("{0}")]
    Store(String),
    /// Something about one of the changes; the others may be fine.
    #[error("{0}")]
    Change(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Store(error.to_string())
    }
}

impl From<TransactError> for Fault {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Busy { .. } | TransactError::Unknown { .. } => {
                Fault::Store("the store stays busy".to_owned())
            }
            TransactError::Illegal { reason } => Fault::Change(reason),
            TransactError::Store(error) => error.into(),
        }
    }
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        Fault::Store(error.to_string())
    }
}

impl Fault {
    /// Of something that broke off.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        Fault::Change(format!("broke off: {}", panic_text(panic)))
    }
}
