//! Service level of a task: its deadline and its warning.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Priority, Timestamp};

/// When a task should be completed, and when to warn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sla {
    /// As the caller wrote it (`"15m"`), or derived from the priority's default.
    pub target: String,
    pub deadline: Timestamp,
    /// Percent of the time from creation to deadline after which to warn: 1 to 100.
    pub alert_threshold: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    pub warned: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub violated: bool,
    /// The violation moved the task to the next higher lane.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lifted: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Sla {
    /// Defaults by priority: P0 15 min, P1 1 h, P2 8 h, P3 24 h.
    pub fn default_target(priority: Priority) -> Duration {
        Duration::from_secs(match priority {
            Priority::P0 => 15 * 60,
            Priority::P1 => 60 * 60,
            Priority::P2 => 8 * 60 * 60,
            Priority::P3 => 24 * 60 * 60,
        })
    }

    pub fn warn_at(&self, created_at: Timestamp) -> Timestamp {
        let whole = self.deadline.since(created_at);
        created_at.plus(whole.mul_f64(f64::from(self.alert_threshold) / 100.0))
    }
}
