use std::sync::Arc;

use super::{Batch, BatchError, LedgerReader};
use crate::domain::{TenantId, Timestamp};
use crate::ports::{Store, StoreError};
use crate::repo::{self, Fold, decode};
use crate::service::STATS_FOLD;

/// A ledger whose chain holds, up to its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub batches: u64,
    pub entries: u64,
    /// Hash of the newest batch; empty for an empty ledger. Compare it with one that was
    /// kept elsewhere: the chain alone can't show that its end was cut off and written anew.
    pub head: String,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("ledger batch {seq} breaks the chain: {reason}")]
    Broken { seq: u64, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Walks a tenant's ledger from its first batch and checks that each is as it was written,
/// in its place, after the one whose hash it names, and that none is missing that the list
/// of batches or the statistics have seen.
pub async fn verify(store: Arc<dyn Store>, tenant: &TenantId) -> Result<Verified, VerifyError> {
    // Read first: what is appended during the walk is no fault.
    let seen = seen(&store, tenant).await?;
    let mut verified = Verified::default();
    let mut latest = Timestamp::default();
    loop {
        let seq = verified.batches + 1;
        let broken = |reason: String| VerifyError::Broken { seq, reason };
        let Some(item) = store.get(&repo::ledger_key(tenant, seq)).await? else {
            if seq <= seen {
                return Err(broken(format!("it is missing, though batch {seen} was written")));
            }
            return Ok(verified);
        };
        let batch = Batch::read(&item).map_err(|error: BatchError| broken(error.to_string()))?;
        if (&batch.tenant, batch.seq) != (tenant, seq) {
            let (of, number) = (&batch.tenant, batch.seq);
            return Err(broken(format!("in its place stands batch {number} of tenant {of}")));
        }
        if batch.previous != verified.head {
            let (named, found) = (&batch.previous, &verified.head);
            return Err(broken(format!("it follows '{named}', the batch before it is '{found}'")));
        }
        if batch.recorded_at < latest {
            let at = batch.recorded_at;
            return Err(broken(format!("recorded at {at}, before the batch before it, {latest}")));
        }
        latest = batch.recorded_at;
        verified.batches = seq;
        verified.entries += batch.entries.len() as u64;
        verified.head = batch.hash;
    }
}

/// The newest batch that anything but the chain knows of.
async fn seen(store: &Arc<dyn Store>, tenant: &TenantId) -> Result<u64, StoreError> {
    let listed = LedgerReader::new(store.clone(), tenant.clone()).listed_head().await?;
    let fold = store.get(&repo::fold_key(tenant, STATS_FOLD)).await?;
    let folded = match fold {
        Some(item) => decode::<Fold>(&item)?.value.seq_applied,
        None => 0,
    };
    Ok(listed.max(folded))
}
