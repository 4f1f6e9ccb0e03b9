//! The ledger: what changed, in order, in batches chained by hash. Events, the timeline of
//! the tenant, statistics and the audit are read off it.

mod batch;
mod entry;
mod raw;
mod read;
mod stats;
mod verify;

pub use batch::{Batch, BatchError, MAX_BATCH_BYTES};
pub use entry::{Entry, entries_of};
pub use raw::RawBatch;
pub use read::{Head, LedgerReader, Weighed};
pub use stats::{QueueStats, Stats, StatsFold, StatsRow};
pub use verify::{Broken, BrokenEntry, Found, Tampering, Verified, Verifier, VerifyError, verify};
