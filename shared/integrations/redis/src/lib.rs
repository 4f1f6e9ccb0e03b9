//! The legacy queue: a Redis in which other programs keep their tasks, behind the port
//! [`LegacyQueue`](watchbill_wire::legacy::LegacyQueue).
//!
//! - `forms`: the formats that those programs write and read.
//! - `keys`: reads and changes the keys. `scripts/*.lua`: the scripts. `batch`: commands and
//!   scripts that are sent together.
//! - `legacy`: the traits of the port, over both.
//! - `address`: parses the URL. `dial`: connects. `line`: the open connection, its timeouts and
//!   reconnects. `error`: Redis errors in words. `about`: server information.
//!
//! Our own keys start with `watchbill:`. Those that a script changes together with one of
//! theirs have its name in braces, so that both are in one cluster slot. Times are the
//! server's, so that machines' clocks don't matter. Scripts that write after reading the time
//! need Redis 5 or later.
//!
//! To add a call: its script in `scripts/`, which uses keys of one slot only, does first what
//! may fail and is idempotent; and a test in `tests/redis/` that calls it twice. To add a
//! format: in `forms`, with examples by those programs in `tests/fixtures`.

mod about;
mod address;
mod batch;
mod dial;
mod error;
pub mod forms;
pub mod keys;
mod legacy;
mod line;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::ports::{Clock, Entropy};

pub use about::ServerInfo;
pub use keys::RedisKeys;
pub use legacy::RedisLegacyQueue;

/// How a [`RedisLegacyQueue`] connects.
#[derive(Clone)]
pub struct RedisOptions {
    /// Certificates (PEM) of the authority that signed the server's; if `None`, those that this
    /// machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Timeout for connecting, with TLS and password.
    pub connect_within: Duration,
    /// Timeout for the answer to one batch.
    pub answer_within: Duration,
    /// Silence after which a listener pings the server.
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
