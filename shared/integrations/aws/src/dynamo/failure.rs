//! Maps SDK errors to read and commit errors.

use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use watchbill_core::ports::{CommitError, StoreError};

/// Retry delay after a throttle; the SDK has already waited between its attempts.
pub(super) const BUSY: Duration = Duration::from_millis(100);

/// Retry delay after a conflict of transactions; the other one takes a few milliseconds.
pub(super) const CONFLICT_DELAY: Duration = Duration::from_millis(20);

enum Failure {
    Busy(Duration),
    /// The request may have been carried out.
    Unclear(String),
    /// The request itself is invalid.
    Wrong(String),
    /// Not carried out, and a retry would fail too.
    Down(String),
}

fn failure<E>(error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let service = match error {
        SdkError::ServiceError(service) => service,
        SdkError::ConstructionFailure(_) => {
            return Failure::Down(DisplayErrorContext(error).to_string());
        }
        _ => return Failure::Unclear(DisplayErrorContext(error).to_string()),
    };
    let code = service.err().code().unwrap_or("no error code");
    let reason = format!("{code}: {}", service.err().message().unwrap_or("no message"));
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "ThrottlingError"
        | "RequestLimitExceeded"
        | "LimitExceededException" => Failure::Busy(BUSY),
        "TransactionConflictException" | "TransactionInProgressException" => {
            Failure::Busy(CONFLICT_DELAY)
        }
        // A token mismatch would need one write id for two commits. But the token is made from
        // the write id only, each commit draws its own, and a retried commit sends the same
        // request.
        "ValidationException"
        | "SerializationException"
        | "IdempotentParameterMismatchException" => Failure::Wrong(reason),
        _ if service.raw().status().is_server_error() => Failure::Unclear(reason),
        _ => Failure::Down(reason),
    }
}

pub(super) fn read_failure<E>(error: &SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match failure(error) {
        Failure::Busy(after) => StoreError::Busy { after },
        Failure::Unclear(reason) | Failure::Wrong(reason) | Failure::Down(reason) => {
            StoreError::Down { reason }
        }
    }
}

/// For all errors but failed conditions, which return their item.
pub(super) fn write_failure<E>(error: &SdkError<E>) -> CommitError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match failure(error) {
        Failure::Busy(after) => CommitError::Busy { after },
        Failure::Unclear(reason) => CommitError::Unknown { reason },
        Failure::Wrong(reason) => illegal(&reason),
        Failure::Down(reason) => StoreError::Down { reason }.into(),
    }
}

/// DynamoDB's message, with the limits that it does not name.
pub(super) fn illegal(reason: &str) -> CommitError {
    CommitError::Illegal {
        reason: format!(
            "DynamoDB rejected it ({reason}); an item may have 400 KB, a transaction 4 MB"
        ),
    }
}
