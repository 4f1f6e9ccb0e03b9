//! Persistent alerts: one open alert for each type and target, on the store of every mode.
//!
//! - `model`: what an alert is, and the port that stores alerts. `tool`: the tool.
//! - `alerts`: the port over the store. `alert_items`: its stored items.
//!
//! How to add data to an alert: add a field to [`Alert`] with a default for items of older
//! builds, and show it in `tool::shown`.

mod alert_items;
mod alerts;
mod model;
mod tool;

pub use alert_items::AlertRecord;
pub use alerts::{MAX_OPEN as MAX_OPEN_ALERTS, StoredAlerts};
pub use model::{Alert, AlertMark, AlertStatus, AlertStore, OpenAlerts, RaiseAlert, Severity};
pub use tool::{AlertParameters, AlertSelector, act, alert};

use watchbill_runtime::evidence::{AlertSummaries, AlertSummary, CappedCount};

/// Open alerts as evidence.
pub fn seen(open: OpenAlerts) -> AlertSummaries {
    let newest = open.newest.into_iter().map(|alert| AlertSummary {
        acknowledged: alert.status != AlertStatus::Active,
        alert_id: alert.alert_id,
        alert_type: alert.alert_type,
        target: alert.target,
        severity: alert.severity.as_str(),
        message: alert.message,
        count: alert.count,
        first_seen: alert.first_seen,
    });
    AlertSummaries {
        newest: newest.collect(),
        open: CappedCount { count: open.count, more: open.more },
    }
}
