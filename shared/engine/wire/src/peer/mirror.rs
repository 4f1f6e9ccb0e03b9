//! What a peer's programs are shown of approvals and cost.

use async_trait::async_trait;

use super::PeerError;
use crate::{ApprovalView, TaskView};

/// What models have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub tokens: u64,
    pub usd: f64,
    /// Tasks whose models were asked, where that is known.
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

/// What a peer's programs are shown. Nothing of it is ever read back here; but they decide by
/// the sums, and keep approvals of their own under the same names: what they wrote stays.
#[async_trait]
pub trait PeerMirror: Send + Sync {
    /// An approval that waits, or that was decided: out of the waiting ones, first in the
    /// history, once. `task`: the one that it is about, as far as it is known. False where one
    /// of the peer's own stands under that id.
    async fn show_approval(
        &self,
        approval: &ApprovalView,
        task: Option<&TaskView>,
    ) -> Result<bool, PeerError>;

    /// Adds to a sum what is new in `so_far` since the last call for the same `part`: the
    /// figures of a part only grow, and no sum is ever lowered.
    async fn add_cost(&self, sum: &CostOf, part: &str, so_far: Cost) -> Result<(), PeerError>;
}
