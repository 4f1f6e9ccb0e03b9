//! What can be read of the estate, joined from the capabilities.

use async_trait::async_trait;
use watchbill_domain::{TenantId, Timestamp};
use watchbill_monitoring::{Thresholds, report};
use watchbill_runtime::evidence::{
    AlertsSeen, Counted, Evidence, SystemReport, TaskSummary, Unseen,
};

use super::OpsPorts;

pub struct Joined(pub OpsPorts);

#[async_trait]
impl Evidence for Joined {
    async fn system(&self) -> Result<SystemReport, Unseen> {
        let metrics = self.0.metrics.as_ref().ok_or(Unseen::NotHere)?;
        Ok(report(&metrics.sample().await?, &Thresholds::DEFAULT))
    }

    async fn open_alerts(&self, tenant: &TenantId, limit: usize) -> Result<AlertsSeen, Unseen> {
        let book = self.0.alerts.as_ref().ok_or(Unseen::NotHere)?;
        Ok(watchbill_alerts::seen(book.list_open(tenant, limit).await?))
    }

    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, Unseen> {
        let history = self.0.history.as_ref().ok_or(Unseen::NotHere)?;
        Ok(history.recent_tasks(tenant, from, to, None, limit).await?)
    }

    async fn failed_since(&self, tenant: &TenantId, from: Timestamp) -> Result<Counted, Unseen> {
        let history = self.0.history.as_ref().ok_or(Unseen::NotHere)?;
        Ok(history.failed_since(tenant, from).await?)
    }
}
