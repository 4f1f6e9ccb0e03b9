//! What agents remember, on the store: the same in every mode.

mod alert_items;
mod alerts;
mod history;

pub use alert_items::AlertRecord;
pub use alerts::{MAX_OPEN as MAX_OPEN_ALERTS, StoredAlerts};
pub use history::TaskHistory;

use watchbill_core::service::ServiceError;

use crate::ports::PortError;

fn port_error(what: &'static str, error: ServiceError) -> PortError {
    match error {
        ServiceError::Busy { .. } | ServiceError::Down { .. } => {
            PortError::Unavailable { what, reason: error.to_string() }
        }
        other => PortError::Refused { what, reason: other.to_string() },
    }
}
