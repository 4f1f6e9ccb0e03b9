//! What the legacy programs see of approvals and cost.

use async_trait::async_trait;

use super::LegacyError;
use crate::{ApprovalView, TaskView};

/// The cost of model calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub tokens: u64,
    pub usd: f64,
    /// The number of tasks that called models, if known.
    pub requests: Option<u64>,
}

/// What costs are summed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CostOf {
    /// `2026-01-31`.
    Day(String),
    /// `2026-01-31-23`.
    Hour(String),
    Trace(String),
}

/// Approvals and cost as the legacy programs see them; the backend never reads them back. The
/// legacy programs decide by the sums and keep their own approvals under the same names: what
/// they wrote is preserved.
#[async_trait]
pub trait LegacyMirror: Send + Sync {
    /// Shows a pending or decided approval. A decided one moves, once, from the pending ones to
    /// the top of the history. `task`: its task, if known. Returns false if the legacy programs
    /// have their own approval under that id.
    async fn show_approval(
        &self,
        approval: &ApprovalView,
        task: Option<&TaskView>,
    ) -> Result<bool, LegacyError>;

    /// Adds to a sum what is new in `so_far` since the last call for the same `part`. The
    /// values of a part only grow, and a sum is never lowered.
    async fn add_cost(&self, sum: &CostOf, part: &str, so_far: Cost) -> Result<(), LegacyError>;
}
