//! What the SDK's errors mean for a reader and for a writer.

use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use watchbill_core::ports::{CommitError, StoreError};

/// After a throttle the SDK has already waited between its attempts.
pub(super) const BUSY: Duration = Duration::from_millis(100);

/// Two transactions met on an item; the other one takes a few milliseconds.
pub(super) const MET: Duration = Duration::from_millis(20);

enum Failure {
    Busy(Duration),
    /// The request may have been carried out.
    Unclear(String),
    /// DynamoDB says that the request itself is wrong.
    Wrong(String),
    /// It was not carried out and would not be the next time.
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
        "TransactionConflictException" | "TransactionInProgressException" => Failure::Busy(MET),
        // The mismatch would need one write id for two different commits: the token is made
        // from nothing else, a write id is drawn for one commit, and a commit that is tried
        // again is the same value, so the same request.
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

/// For everything but failed conditions, which have their item to look at.
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

/// DynamoDB's own words, which don't say its limits.
pub(super) fn illegal(reason: &str) -> CommitError {
    CommitError::Illegal {
        reason: format!(
            "DynamoDB refuses it ({reason}); an item holds 400 KB and a transaction 4 MB at most"
        ),
    }
}
