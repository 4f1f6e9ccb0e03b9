//! What stands under which key, and how it is read and changed: in one step where programs
//! beside us would see a half. The texts under the keys are handed through as they are; see
//! `forms` for these.
//!
//! - `values`: what goes in and comes out.
//! - `queue`, `offers`: the shared queue, their tasks and ours. `rejected`: what can't be read.
//! - `channels`, `domains`, `registry`, `mirror`: as the port has them.

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

use watchbill_wire::peer::PeerError;

use crate::RedisOptions;
use crate::about::{self, About};
use crate::address::Address;
use crate::batch::Batch;
use crate::line::Line;

pub use channels::RedisListener;
pub(crate) use queue::QUEUE;
pub use values::{
    DomainWrite, Failure, Offer, PeerMessage, Registration, Rejected, Taken, TaskWrite,
};

/// The keys of a Redis server, a cluster, or a master that sentinels watch. A call does what
/// the port says of the one of its name.
pub struct RedisKeys {
    line: Line,
    rejected: AtomicU64,
}

impl RedisKeys {
    /// See [`RedisPeer::open`](crate::RedisPeer::open).
    pub fn open(url: &str, options: RedisOptions) -> Result<Self, PeerError> {
        let address = Address::parse(url)?;
        Ok(Self { line: Line::new(address, options)?, rejected: AtomicU64::new(0) })
    }

    /// What it is and where, without user and password.
    pub fn place(&self) -> String {
        self.line.address().to_string()
    }

    pub async fn about(&self) -> Result<About, PeerError> {
        about::ask(&self.line).await
    }

    pub async fn ping(&self) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        batch.plain("PING", &[]);
        self.line.all(batch).await.map(drop)
    }

    /// Members of the queue that [`peek`](Self::peek) itself moved to the rejected.
    pub fn moved_aside(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RedisKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisKeys").field(&self.line.address().to_string()).finish()
    }
}
