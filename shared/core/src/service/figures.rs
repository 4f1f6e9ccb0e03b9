use super::core::Core;
use super::{QueueStats, ServiceError, Stats};
use crate::domain::TenantId;
use crate::ledger::{LedgerReader, StatsFold};
use crate::ports::{ListRange, Query, WhichList};
use crate::repo::{self, Fold, Versioned, decode};

/// Name of the fold that counts tasks.
pub const STATS_FOLD: &str = "stats";

impl Core {
    /// Counts of one tenant: the kept fold, and what the ledger holds beyond it.
    pub async fn stats(&self, tenant: &TenantId) -> Result<Stats, ServiceError> {
        let kept = self.store().get(&repo::fold_key(tenant, STATS_FOLD)).await?;
        let (mut fold, mut seq) = match kept {
            None => (StatsFold::default(), 0),
            Some(item) => {
                let fold: Versioned<Fold> = decode(&item)?;
                let state = serde_json::from_value(fold.value.state)
                    .map_err(|e| ServiceError::Down { reason: format!("{}: {e}", item.key) })?;
                (state, fold.value.seq_applied)
            }
        };
        let ledger = LedgerReader::new(self.store().clone(), tenant.clone());
        while let Some(batch) = ledger.batch(seq + 1).await? {
            fold.apply(&batch);
            seq += 1;
        }
        Ok(fold.stats())
    }

    /// Counts over all tenants.
    pub async fn queue_stats(&self) -> Result<QueueStats, ServiceError> {
        let mut sum = QueueStats::default();
        for tenant in self.tenants().await? {
            let stats = self.stats(&tenant).await?;
            sum.pending += stats.queue.pending;
            sum.processing += stats.queue.processing;
        }
        Ok(sum)
    }

    /// The tenants that have recorded anything, up to a thousand.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, ServiceError> {
        let query = Query {
            list: WhichList::First,
            partition: repo::TENANTS.into(),
            range: ListRange::default(),
            descending: false,
            limit: 1_000,
            cursor: None,
        };
        let page = self.store().query(query).await?;
        page.entries
            .iter()
            .map(|key| {
                repo::tenant_of(key).ok_or_else(|| ServiceError::Down {
                    reason: format!("{key} stands in the list of tenants and names none"),
                })
            })
            .collect()
    }
}
