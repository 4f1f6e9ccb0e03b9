//! The keys in Redis, and how they are read and changed: atomically if other programs could
//! otherwise see a partial change. The stored texts are passed through; `forms` interprets
//! them.
//!
//! - `values`: arguments and results.
//! - `queue`, `offers`: the shared queue, with their tasks and ours. `rejected`: unreadable
//!   items.
//! - `channels`, `domains`, `registry`, `mirror`: as in the port.

mod channels;
mod domains;
mod mirror;
mod offers;
mod queue;
mod registry;
mod rejected;
mod values;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use watchbill_wire::legacy::LegacyError;

use crate::RedisOptions;
use crate::about::{self, ServerInfo};
use crate::address::Address;
use crate::batch::Batch;
use crate::line::Line;

pub use channels::RedisListener;
pub(crate) use queue::QUEUE;
pub use values::{
    ClaimedMessage, DomainWrite, Failure, LegacyMessage, Registration, Rejected, TaskOffer,
    TaskWrite,
};

/// The keys of a Redis server, a cluster, or a master with sentinels. Each method does what the
/// port's method of that name specifies.
pub struct RedisKeys {
    line: Line,
    rejected: AtomicU64,
}

impl RedisKeys {
    /// See [`RedisLegacyQueue::open`](crate::RedisLegacyQueue::open).
    pub fn open(url: &str, options: RedisOptions) -> Result<Self, LegacyError> {
        let address = Address::parse(url)?;
        Ok(Self { line: Line::new(address, options)?, rejected: AtomicU64::new(0) })
    }

    /// Layout and hosts, without user and password.
    pub fn place(&self) -> String {
        self.line.address().to_string()
    }

    pub async fn about(&self) -> Result<ServerInfo, LegacyError> {
        about::ask(&self.line).await
    }

    pub async fn ping(&self) -> Result<(), LegacyError> {
        let mut batch = Batch::new();
        batch.plain("PING", &[]);
        self.line.all(batch).await.map(drop)
    }

    /// How many queue members [`peek`](Self::peek) itself moved to the rejected list.
    pub fn moved_aside(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RedisKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisKeys").field(&self.line.address().to_string()).finish()
    }
}
