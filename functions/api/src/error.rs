//! Errors of the API, each returned as `application/problem+json`.

use std::time::Duration;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use watchbill_core::service::ServiceError;
use watchbill_wire::{BadForm, FieldError, Problem};

use crate::route::clean;

/// An error to return, with only what the caller may know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after: Option<Duration>,
}

impl ApiError {
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

    /// An error of ours. The log has the details, the response does not.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "an unexpected server error; the server's log has the details",
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
        let body = serde_json::to_string(&problem).expect("strings and a number serialize");
        // The text may quote what the caller sent.
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

/// Whole seconds, rounded up and at least one, so that a client that waits this long waits
/// enough.
pub fn seconds_up(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

impl From<BadForm> for ApiError {
    fn from(error: BadForm) -> Self {
        let detail = error.to_string();
        match error {
            BadForm::Syntax(_) => ApiError::bad_request(detail),
            BadForm::Fields(errors) => ApiError { errors, ..ApiError::bad_request(detail) },
            BadForm::TooLarge { .. } => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::NotFound { .. } => ApiError::new(StatusCode::NOT_FOUND, detail),
            ServiceError::Conflict { .. } => ApiError::conflict(detail),
            // Well formed, but names something that does not exist.
            ServiceError::Invalid {
                field: field @ ("cursor" | "parent_task_id" | "freeze"),
                ..
            } => ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field(field, detail) },
            ServiceError::Invalid { field, .. } => ApiError::field(field, detail),
            ServiceError::TooLarge { .. } => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            ServiceError::Forbidden { .. } => ApiError::forbidden(detail),
            ServiceError::Unreadable { ref key, ref reason } => {
                tracing::error!(%key, reason, "a call failed: an item can't be read");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
            ServiceError::Busy { after } => {
                ApiError::unavailable("the store is busy; retry the request", after)
            }
            ServiceError::Down { reason } => {
                tracing::error!(reason, "a call failed: the store is unavailable");
                ApiError::unavailable(
                    "the store is unavailable; retry the request",
                    Duration::from_secs(5),
                )
            }
        }
    }
}
