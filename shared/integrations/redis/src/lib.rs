//! A Redis in which programs of others keep their tasks: all of it is here, behind the port
//! [`Peer`](watchbill_wire::peer::Peer).
//!
//! - `forms`: what stands in the keys, as those programs write and read it.
//! - `keys`: what stands under which key, read and changed. `scripts/*.lua`: the scripts.
//!   `batch`: commands and scripts that go out together.
//! - `peer`: the traits of the port, over both.
//! - `address`: the forms of the URL. `dial`: connecting. `line`: the connection that stands,
//!   its time limits, and connecting again. `fault`: what a Redis error means to people.
//!   `about`: what a server says of itself.
//!
//! Our own keys begin with `watchbill:`; those that a script changes together with one of
//! theirs carry its name in braces, so that both lie in one slot of a cluster. Times are the
//! server's own, so that the clocks of machines don't matter. Scripts that write after they
//! asked for the time need Redis 5 or later.
//!
//! How to add a call: its script in `scripts/`, which touches the keys of one slot only, does
//! first what may fail and can be run twice; a row in `tests/redis/` that calls it twice. How to
//! add a form: in `forms`, with what those programs wrote in `tests/fixtures`.

mod about;
mod address;
mod batch;
mod dial;
mod fault;
pub mod forms;
pub mod keys;
mod line;
mod peer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watchbill_core::ports::{Clock, Entropy};

pub use about::About;
pub use keys::RedisKeys;
pub use peer::RedisPeer;

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
