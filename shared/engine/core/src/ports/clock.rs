//! The clock port.

use std::time::Duration;

use async_trait::async_trait;

use watchbill_domain::Timestamp;

/// Time: the wall clock for people and stores, a monotonic clock for waiting and measuring
/// within one process.
#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// Time since a fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;

    async fn sleep(&self, how_long: Duration);

    /// How far [`now`](Self::now) is ahead of the machine's clock because that clock was set
    /// back; zero where both agree.
    fn ahead(&self) -> Duration {
        Duration::ZERO
    }
}
