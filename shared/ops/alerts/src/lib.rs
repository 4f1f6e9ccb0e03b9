//! Alerts that last: one open alert for each type and target, on the store of every mode.
//!
//! - `model`: what an alert is, and the port that keeps them. `tool`: the tool.
//! - `alerts`: the port over the store. `alert_items`: the items that it keeps.
//!
//! How to add something an alert bears: a field of [`Alert`] with a default for what older builds
//! wrote, and its place in `tool::shown`.

mod alert_items;
mod alerts;
mod model;
mod tool;

pub use alert_items::AlertRecord;
pub use alerts::{MAX_OPEN as MAX_OPEN_ALERTS, StoredAlerts};
pub use model::{Alert, AlertBook, AlertMark, AlertStatus, OpenAlerts, RaiseAlert, Severity};
pub use tool::{AlertParameters, Which, act, alert};

use watchbill_runtime::evidence::{AlertSeen, AlertsSeen, Counted};

/// Open alerts as evidence.
pub fn seen(open: OpenAlerts) -> AlertsSeen {
    let newest = open.newest.into_iter().map(|alert| AlertSeen {
        acknowledged: alert.status != AlertStatus::Active,
        alert_id: alert.alert_id,
        alert_type: alert.alert_type,
        target: alert.target,
        severity: alert.severity.as_str(),
        message: alert.message,
        count: alert.count,
        first_seen: alert.first_seen,
    });
    AlertsSeen { newest: newest.collect(), open: Counted { count: open.count, more: open.more } }
}
