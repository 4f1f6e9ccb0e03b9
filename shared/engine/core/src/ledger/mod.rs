//! The ledger: all changes, in order, in batches chained by hash. Events, the tenant's
//! timeline, statistics and the audit are projections of it.

mod batch;
mod entry;
mod raw;
mod read;
mod stats;
mod verify;

pub use batch::{Batch, BatchError, MAX_BATCH_BYTES};
pub use entry::{Entry, entries_of};
pub use raw::RawBatch;
pub use read::{Head, LedgerReader, SizedBatch};
pub use stats::{QueueStats, Stats, StatsFold, StatsRow};
pub use verify::{
    BrokenEntry, LedgerBreak, PositionContent, Tampering, Verified, Verifier, VerifyError, verify,
};
