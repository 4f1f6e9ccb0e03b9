//! Reads a tenant's ledger from the store.

use std::sync::Arc;

use watchbill_domain::{TenantId, Timestamp};

use super::{Batch, BatchError};
use crate::offload::BlockingPool;
use crate::ports::{ListRange, Query, Store, StoreError, WhichList};
use crate::repo;

/// Compressed bytes up to which a batch is unpacked on the current thread; text compresses
/// about tenfold.
const SMALL_BATCH: usize = 4 * 1024;

/// A batch with the size of its lines in bytes, or why it fails verification.
pub type SizedBatch = Result<(Batch, usize), BatchError>;

/// The newest batch of a ledger: number and hash. Zero and empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
    pub published: u64,
    pub recorded_at: Timestamp,
}

/// Reads a tenant's ledger. Large batches are unpacked on blocking threads.
#[derive(Clone)]
pub struct LedgerReader {
    pub(super) store: Arc<dyn Store>,
    pub(super) tenant: TenantId,
    offload: BlockingPool,
}

impl LedgerReader {
    pub fn new(store: Arc<dyn Store>, tenant: TenantId) -> Self {
        Self { store, tenant, offload: BlockingPool::default() }
    }

    /// The same, sharing a concurrency limit for long work with others.
    #[must_use]
    pub fn within(self, offload: BlockingPool) -> Self {
        Self { offload, ..self }
    }

    /// The head, found in the list and then followed by key, because lists may lag.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let page = self.list(ListRange::default(), true, 1, None).await?;
        let listed = page.first().copied().unwrap_or(0);
        let mut head = Head::default();
        let mut seq = listed.max(1);
        while let Some(batch) = self.batch(seq).await? {
            let Batch { hash, published, recorded_at, .. } = batch;
            head = Head { seq, hash, published, recorded_at };
            seq += 1;
        }
        Ok(head)
    }

    /// The number of the newest batch in the list: may lag, costs one query.
    pub async fn listed_head(&self) -> Result<u64, StoreError> {
        Ok(self.list(ListRange::default(), true, 1, None).await?.first().copied().unwrap_or(0))
    }

    pub async fn batch(&self, seq: u64) -> Result<Option<Batch>, StoreError> {
        Ok(self.weighed(seq).await?.map(|(batch, _)| batch))
    }

    /// The same, with the size of its lines in bytes.
    pub async fn weighed(&self, seq: u64) -> Result<Option<(Batch, usize)>, StoreError> {
        let corrupt = |error: BatchError| StoreError::Corrupt {
            key: repo::ledger_key(&self.tenant, seq),
            reason: error.to_string(),
        };
        self.look(seq).await?.transpose().map_err(corrupt)
    }

    /// The item with this batch number, readable or not.
    pub async fn look(&self, seq: u64) -> Result<Option<SizedBatch>, StoreError> {
        let Some(item) = self.store.get(&repo::ledger_key(&self.tenant, seq)).await? else {
            return Ok(None);
        };
        let much = item.body.len() > SMALL_BATCH;
        Ok(Some(self.offload.run_if(much, move |_| Batch::read_weighed(&item)).await))
    }

    /// The number of the first batch recorded at or after a time, if there is one.
    pub async fn first_since(&self, at: Timestamp) -> Result<Option<u64>, StoreError> {
        let range = ListRange { from: Some(at.sortable().into()), to: None };
        Ok(self.list(range, false, 1, None).await?.first().copied())
    }

    async fn list(
        &self,
        range: ListRange,
        descending: bool,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Vec<u64>, StoreError> {
        let query = Query {
            list: WhichList::First,
            partition: repo::ledger_list(&self.tenant),
            range,
            descending,
            limit,
            cursor,
        };
        let page = self.store.query(query).await?;
        page.entries
            .iter()
            .map(|key| {
                key.sort.parse().map_err(|_| StoreError::Corrupt {
                    key: key.clone(),
                    reason: "its sort key is not a batch number".to_owned(),
                })
            })
            .collect()
    }
}
