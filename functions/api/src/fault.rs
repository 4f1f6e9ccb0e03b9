use std::time::Duration;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use watchbill_core::service::ServiceError;
use watchbill_wire::{BadForm, FieldError, Problem};

use crate::route::clean;

/// An error on its way out: what the caller may know of it, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub status: StatusCode,
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after: Option<Duration>,
}

impl Fault {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn field(field: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let errors = vec![FieldError { field: field.to_owned(), message: detail.clone() }];
        Self { errors, ..Self::bad_request(detail) }
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub fn unavailable(detail: impl Into<String>, after: Duration) -> Self {
        Self { retry_after: Some(after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// Something of ours is broken. What it was stands in the log, not in the answer.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "an unexpected fault on our side; it is in the server's log",
        )
    }

    pub fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let problem = Problem {
            kind: format!("urn:watchbill:{}", title.to_ascii_lowercase().replace(' ', "-")),
            title: title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            errors: self.errors,
        };
        let body = serde_json::to_string(&problem).expect("a problem is texts and a number");
        // It may quote what the caller sent.
        let mut response = Response::new(clean(body).into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"watchbill\", ApiKey header=\"X-API-Key\""),
            );
        }
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds_up(after).into());
        }
        response
    }
}

/// Whole seconds, rounded up and at least one: a client that waits so long waits enough.
pub fn seconds_up(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

impl From<BadForm> for Fault {
    fn from(error: BadForm) -> Self {
        let detail = error.to_string();
        match error {
            BadForm::Syntax(_) => Fault::bad_request(detail),
            BadForm::Fields(errors) => Fault { errors, ..Fault::bad_request(detail) },
            BadForm::TooLarge { .. } => Fault::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
        }
    }
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::NotFound { .. } => Fault::new(StatusCode::NOT_FOUND, detail),
            ServiceError::Conflict { .. } => Fault::conflict(detail),
            // Well formed, but naming something that is not there.
            ServiceError::Invalid {
                field: field @ ("cursor" | "parent_task_id" | "freeze"),
                ..
            } => Fault { status: StatusCode::NOT_FOUND, ..Fault::field(field, detail) },
            ServiceError::Invalid { field, .. } => Fault::field(field, detail),
            ServiceError::TooLarge { .. } => Fault::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            ServiceError::Forbidden { .. } => Fault::forbidden(detail),
            ServiceError::Unreadable { ref key, .. } => {
                tracing::error!(%key, "a call failed: {detail}");
                Fault::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
            ServiceError::Busy { after } => Fault::unavailable("busy; try the same again", after),
            ServiceError::Down { reason } => {
                tracing::error!(reason, "a call failed because the store is out of reach");
                Fault::unavailable(
                    "the store can't be reached now; try the same again",
                    Duration::from_secs(5),
                )
            }
        }
    }
}
