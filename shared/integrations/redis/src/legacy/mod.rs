//! Implements the port `LegacyQueue` on the keys: values on our side, the legacy formats in
//! Redis.

mod channels;
mod domains;
mod mirror;
mod queue;

use std::fmt;

use async_trait::async_trait;
use watchbill_wire::legacy::{LegacyError, LegacyHealth};

use crate::about::ServerInfo;
use crate::{RedisKeys, RedisOptions};

/// A Redis server, a cluster, or a master with sentinels.
pub struct RedisLegacyQueue {
    keys: RedisKeys,
}

impl RedisLegacyQueue {
    /// Parses the URL and connects on first use, so an unreachable server is no error here. The
    /// forms:
    ///
    /// - `redis://[user:password@]host[:port][/database]`, `rediss://…` with TLS
    /// - `redis+cluster://[user:password@]host:port,host:port`, `rediss+cluster://…`
    /// - `redis+sentinel://[user:password@]host:port,host:port/master-name[/database]`,
    ///   `rediss+sentinel://…`; user and password are the master's, and the sentinels' if these
    ///   require them
    pub fn open(url: &str, options: RedisOptions) -> Result<Self, LegacyError> {
        Ok(Self { keys: RedisKeys::open(url, options)? })
    }

    /// Layout and hosts, without user and password.
    pub fn place(&self) -> String {
        self.keys.place()
    }

    /// What the server reports about itself.
    pub async fn about(&self) -> Result<ServerInfo, LegacyError> {
        self.keys.about().await
    }
}

impl fmt::Debug for RedisLegacyQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisLegacyQueue").field(&self.place()).finish()
    }
}

#[async_trait]
impl LegacyHealth for RedisLegacyQueue {
    async fn ping(&self) -> Result<(), LegacyError> {
        self.keys.ping().await
    }

    fn moved_aside(&self) -> u64 {
        self.keys.moved_aside()
    }
}
