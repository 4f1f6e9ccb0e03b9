//! A Redis in which programs of others keep their tasks: the port `Peer`.
//!
//! - `about`: what a server says of itself.
//! - `address`: the forms of the URL. `dial`: connecting. `line`: the connection that stands,
//!   its time limits, and connecting again. `fault`: what a Redis error means to people.
//! - `batch`: commands and scripts that go out together. `scripts/*.lua`: the scripts.
//! - `queue`, `offers`, `channels`, `domains`, `registry`, `mirror`: the traits of the port.
//!
//! Our own keys begin with `watchbill:`; those that a script changes together with one of
//! theirs carry its name in braces, so that both lie in one slot of a cluster. Times are the
//! server's own, so that the clocks of machines don't matter. Scripts that write after they
//! asked for the time need Redis 5 or later.
//!
//! How to add a call: its script in `scripts/`, which touches the keys of one slot only, does
//! first what may fail and can be run twice; a row in `tests/redis/` that calls it twice.

mod about;
mod address;
mod batch;
mod channels;
mod dial;
mod domains;
mod fault;
mod line;
mod mirror;
mod offers;
mod queue;
mod registry;
mod rejected;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Clock, Entropy, PeerError, PeerHealth};

pub use about::About;
use address::Address;
use batch::Batch;
use line::Line;

/// How a [`RedisPeer`] connects.
#[derive(Clone)]
pub struct RedisOptions {
    /// Certificates (PEM) of the authority that signed the server's; without it, those that
    /// this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// For the connection, with TLS and password.
    pub connect_within: Duration,
    /// For the answer to whatever is sent at once.
    pub answer_within: Duration,
    /// Of silence, after which a listener asks whether anyone is still there.
    pub idle_within: Duration,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl RedisOptions {
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            ca_file: None,
            connect_within: Duration::from_secs(3),
            answer_within: Duration::from_secs(5),
            idle_within: Duration::from_secs(10),
            clock,
            entropy,
        }
    }
}

/// A Redis server, a cluster, or a master that sentinels watch.
pub struct RedisPeer {
    line: Line,
    rejected: AtomicU64,
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
        let address = Address::parse(url)?;
        Ok(Self { line: Line::new(address, options)?, rejected: AtomicU64::new(0) })
    }

    /// What it is and where, without user and password.
    pub fn place(&self) -> String {
        self.line.address().to_string()
    }
}

impl fmt::Debug for RedisPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisPeer").field(&self.line.address().to_string()).finish()
    }
}

#[async_trait]
impl PeerHealth for RedisPeer {
    async fn ping(&self) -> Result<(), PeerError> {
        let mut batch = Batch::new();
        batch.plain("PING", &[]);
        self.line.all(batch).await.map(drop)
    }

    fn moved_aside(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}
