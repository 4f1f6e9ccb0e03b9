//! The port's mirror of approvals and cost.

use async_trait::async_trait;
use watchbill_wire::legacy::{Cost, CostOf, LegacyError, LegacyMirror};
use watchbill_wire::{ApprovalView, TaskView};

use super::RedisLegacyQueue;
use crate::forms::{approval_for_peer, is_decided};

#[async_trait]
impl LegacyMirror for RedisLegacyQueue {
    async fn show_approval(
        &self,
        approval: &ApprovalView,
        task: Option<&TaskView>,
    ) -> Result<bool, LegacyError> {
        let (id, json) = (approval.approval_id.as_str(), approval_for_peer(approval, task));
        match is_decided(approval) {
            true => self.keys.approval_decided(id, &json).await,
            false => self.keys.approval_waits(id, &json).await,
        }
    }

    async fn add_cost(&self, sum: &CostOf, part: &str, so_far: Cost) -> Result<(), LegacyError> {
        self.keys.add_cost(sum, part, so_far).await
    }
}
