use std::time::Duration;

use async_trait::async_trait;

use watchbill_domain::Timestamp;

/// Time: the wall clock for what people and stores see, a monotonic one for waiting and
/// measuring in one process.
#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;

    async fn sleep(&self, how_long: Duration);

    /// By how much [`now`](Self::now) is ahead of the machine's clock, because that was set
    /// back; zero where both go together.
    fn ahead(&self) -> Duration {
        Duration::ZERO
    }
}
