//! Implements the runtime's `Evidence` over the capabilities.

use async_trait::async_trait;
use watchbill_domain::{TenantId, Timestamp};
use watchbill_monitoring::{Thresholds, report};
use watchbill_runtime::evidence::{
    AlertSummaries, CappedCount, Evidence, ObservationError, SystemReport, TaskSummary,
};

use super::OpsPorts;

pub struct JoinedEvidence(pub OpsPorts);

#[async_trait]
impl Evidence for JoinedEvidence {
    async fn system(&self) -> Result<SystemReport, ObservationError> {
        let metrics = self.0.metrics.as_ref().ok_or(ObservationError::NotHere)?;
        Ok(report(&metrics.sample().await?, &Thresholds::DEFAULT))
    }

    async fn open_alerts(
        &self,
        tenant: &TenantId,
        limit: usize,
    ) -> Result<AlertSummaries, ObservationError> {
        let store = self.0.alerts.as_ref().ok_or(ObservationError::NotHere)?;
        Ok(watchbill_alerts::seen(store.list_open(tenant, limit).await?))
    }

    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, ObservationError> {
        let history = self.0.history.as_ref().ok_or(ObservationError::NotHere)?;
        Ok(history.recent_tasks(tenant, from, to, None, limit).await?)
    }

    async fn failed_since(
        &self,
        tenant: &TenantId,
        from: Timestamp,
    ) -> Result<CappedCount, ObservationError> {
        let history = self.0.history.as_ref().ok_or(ObservationError::NotHere)?;
        Ok(history.failed_since(tenant, from).await?)
    }
}
