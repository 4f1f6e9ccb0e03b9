//! The port `Peer` over the keys: values there, the other programs' forms here.

mod channels;
mod domains;
mod mirror;
mod queue;

use std::fmt;

use async_trait::async_trait;
use watchbill_wire::peer::{PeerError, PeerHealth};

use crate::about::About;
use crate::{RedisKeys, RedisOptions};

/// A Redis server, a cluster, or a master that sentinels watch.
pub struct RedisPeer {
    keys: RedisKeys,
}

impl RedisPeer {
    /// Reads the URL, and connects when it is first needed: a server that is away is no
    /// error here. The forms:
    ///
    /// - `redis://[user:password@]host[:port][/database]`, `rediss://…` with TLS
    /// - `redis+cluster://[user:password@]host:port,host:port`, `rediss+cluster://…`
    /// - `redis+sentinel://[user:password@]host:port,host:port/master-name[/database]`,
    ///   `rediss+sentinel://…`; user and password are the master's, and the sentinels' where
    ///   these ask for one
    pub fn open(url: &str, options: RedisOptions) -> Result<Self, PeerError> {
        Ok(Self { keys: RedisKeys::open(url, options)? })
    }

    /// What it is and where, without user and password.
    pub fn place(&self) -> String {
        self.keys.place()
    }

    /// What the server says of itself.
    pub async fn about(&self) -> Result<About, PeerError> {
        self.keys.about().await
    }
}

impl fmt::Debug for RedisPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisPeer").field(&self.place()).finish()
    }
}

#[async_trait]
impl PeerHealth for RedisPeer {
    async fn ping(&self) -> Result<(), PeerError> {
        self.keys.ping().await
    }

    fn moved_aside(&self) -> u64 {
        self.keys.moved_aside()
    }
}
